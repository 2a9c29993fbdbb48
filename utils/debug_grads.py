"""A look at gradients: is it learning, where, and how strongly?

The loss of a policy gradient says little: right after sampling the ratio is 1 and the advantages of
a cell add up to 0, so the loss is near 0 while its gradient is not. This table shows the gradient.
"""

from collections import defaultdict

import torch


def gradient_table(model: torch.nn.Module, update: int) -> str:
    """Norm and share of exact zeros of the gradient now in `model`, a line a module, as text."""
    groups: dict[str, list[torch.Tensor]] = defaultdict(list)
    for name, parameter in model.named_parameters():
        if parameter.grad is not None:
            groups[_group(name)].append(parameter.grad.detach().flatten().float())
    lines = [f"gradients of update {update}", f"{'module':<32}{'norm':>12}{'zeros':>9}"]
    for name, gradients in groups.items():
        joined = torch.cat(gradients)
        zeros = (joined == 0).float().mean().item()
        lines.append(f"{name:<32}{joined.norm().item():>12.3e}{zeros:>9.1%}")
    return "\n".join(lines)


def _group(name: str) -> str:
    """`model.layers.3.mlp.up_proj.weight` -> `model.layers.3`."""
    parts = name.split(".")
    last = next((i for i, part in enumerate(parts) if part.isdigit()), len(parts) - 2)
    return ".".join(parts[: last + 1])
