"""A look at gradients: is it learning, where, and from what?

The loss of a policy gradient says little: right after sampling the ratio is 1 and the advantages of
a cell add up to 0, so the loss is near 0 while its gradient is not. This table shows the gradient, by
layer and by (role, task) cell.
"""

from collections import defaultdict
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import replace

import torch

from custom_types import CELLS, MiniBatch


def gradient_table(
    model: torch.nn.Module,
    update: int,
    loss: float,
    batches: Sequence[MiniBatch],
    add_gradient: Callable[[Sequence[MiniBatch]], Mapping[str, float]],
) -> str:
    """The gradient that `model` has now, which is that of `batches`, as text. Leaves it there.

    For each layer: the norm, and the share of exact zeros. For each cell: the norm of the gradient of its
    examples alone, its share of the update, ⟨cell's, whole⟩ / ⟨whole, whole⟩, and its loss. Shares add
    up to 1, and one below 0 pulls against the others. add_gradient: adds the gradient of some batches
    to the model's, as an update does, and returns diagnostics with `loss`.
    """
    whole = {weight: weight.grad for weight in model.parameters() if weight.grad is not None}
    square = _dot(whole.values(), whole.values())
    lines = [
        f"gradients of update {update}: loss {loss:.2e}, norm {square**0.5:.2e} before clipping",
        f"{'layer':<32}{'norm':>12}{'zeros':>9}",
        *_layers(model),
        f"{'cell':<32}{'norm':>12}{'share':>9}{'loss':>12}",
    ]
    for cell, (role, task) in enumerate(CELLS):
        of_cell = {weight: torch.zeros_like(weight) for weight in whole}
        for weight, gradient in of_cell.items():
            weight.grad = gradient
        diagnostics = add_gradient(
            [replace(batch, weights=batch.weights * (batch.cells == cell)) for batch in batches]
        )
        norm = _dot(of_cell.values(), of_cell.values()) ** 0.5
        share = f"{_dot(of_cell.values(), whole.values()) / square:.1%}" if square else "-"
        lines.append(
            f"{f'{role}_{task}':<32}{norm:>12.2e}{share:>9}{diagnostics.get('loss', 0.0):>12.2e}"
        )
    for weight, gradient in whole.items():
        weight.grad = gradient
    return "\n".join(lines)


def _layers(model: torch.nn.Module) -> list[str]:
    """The lines of the layers."""
    gradients: dict[str, list[torch.Tensor]] = defaultdict(list)
    for name, weight in model.named_parameters():
        if weight.grad is not None:
            gradients[_layer(name)].append(weight.grad)
    lines = []
    for layer, of_layer in gradients.items():
        zeros = sum(int((gradient == 0).sum()) for gradient in of_layer)
        share = zeros / sum(gradient.numel() for gradient in of_layer)
        lines.append(f"{layer:<32}{_dot(of_layer, of_layer) ** 0.5:>12.2e}{share:>9.1%}")
    return lines


def _dot(first: Iterable[torch.Tensor], second: Iterable[torch.Tensor]) -> float:
    return sum(
        torch.dot(a.flatten().float(), b.flatten().float()).item()
        for a, b in zip(first, second, strict=True)
    )


def _layer(name: str) -> str:
    """`model.layers.3.mlp.up_proj.weight` -> `model.layers.3`."""
    parts = name.split(".")
    last = next((index for index, part in enumerate(parts) if part.isdigit()), len(parts) - 2)
    return ".".join(parts[: last + 1])
