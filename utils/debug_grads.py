"""A look at gradients: is it learning, where, and from what?

The loss of a policy gradient says little: right after sampling the ratio is 1 and the advantages of
a cell add up to 0, so the loss is near 0 while its gradient is not. This table shows the gradient, by
layer and by (role, task) cell.
"""

from collections import defaultdict
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace

import torch

from custom_types import CELLS, MiniBatch


def gradient_table(
    model: torch.nn.Module,
    update: int,
    loss: float,
    parts: Sequence[MiniBatch],
    add_gradient: Callable[[Sequence[MiniBatch]], Mapping[str, float]],
) -> str:
    """The gradient now in `model`, that of `parts`, as text; it stays there.

    A line a layer: the norm, and the share of exact zeros. A line a cell: the loss and the norm of the
    gradient of its examples alone, and its share of the update, ⟨own, whole⟩ / ⟨whole, whole⟩: shares
    add up to 1, and one below 0 pulls against the others. add_gradient: adds the gradient of
    some parts to the model's, as an update does, and returns diagnostics with `loss`.
    """
    trained = [one for one in model.parameters() if one.grad is not None]
    whole = [one.grad for one in trained]
    square = _dot(whole, whole)
    lines = [
        f"gradients of update {update}: loss {loss:.2e}, norm {square**0.5:.2e} before clipping",
        f"{'layer':<32}{'norm':>12}{'zeros':>9}",
        *_layers(model),
        f"{'cell':<32}{'norm':>12}{'share':>9}{'loss':>12}",
    ]
    for cell, (role, task) in enumerate(CELLS):
        for one in trained:
            one.grad = torch.zeros_like(one)
        own_loss = add_gradient(
            [replace(part, weights=part.weights * (part.cells == cell)) for part in parts]
        )
        own = [one.grad for one in trained]
        share = f"{_dot(own, whole) / square:>9.1%}" if square else f"{'-':>9}"
        lines.append(
            f"{f'{role}_{task}':<32}{_dot(own, own) ** 0.5:>12.2e}{share}"
            f"{own_loss.get('loss', 0.0):>12.2e}"
        )
    for one, gradient in zip(trained, whole, strict=True):
        one.grad = gradient
    return "\n".join(lines)


def _layers(model: torch.nn.Module) -> list[str]:
    groups: dict[str, list[torch.Tensor]] = defaultdict(list)
    for name, parameter in model.named_parameters():
        if parameter.grad is not None:
            groups[_group(name)].append(parameter.grad)
    lines = []
    for name, gradients in groups.items():
        zeros = sum((one == 0).sum().item() for one in gradients)
        share = zeros / sum(one.numel() for one in gradients)
        lines.append(f"{name:<32}{_dot(gradients, gradients) ** 0.5:>12.2e}{share:>9.1%}")
    return lines


def _dot(a: Sequence[torch.Tensor], b: Sequence[torch.Tensor]) -> float:
    return sum(
        torch.dot(x.flatten().float(), y.flatten().float()).item()
        for x, y in zip(a, b, strict=True)
    )


def _group(name: str) -> str:
    """`model.layers.3.mlp.up_proj.weight` -> `model.layers.3`."""
    parts = name.split(".")
    last = next((i for i, part in enumerate(parts) if part.isdigit()), len(parts) - 2)
    return ".".join(parts[: last + 1])
