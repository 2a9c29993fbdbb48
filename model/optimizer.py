"""AdamW for a policy, and how an update takes a step of it: never with numbers that are not finite."""

import math
from collections.abc import Sequence

import torch

from model.args import AZRArgs

MOST_SKIPPED = 5  # updates in a row, before the run ends


class NonFiniteError(Exception):
    """Losses or gradients were not finite too often in a row; the message is one sentence for the user."""


def adamw(parameters: Sequence[torch.nn.Parameter], args: AZRArgs) -> torch.optim.AdamW:
    """Without weight decay; its learning rate is set step by step."""
    betas = (0.9, args.adam_beta2)
    return torch.optim.AdamW(parameters, lr=args.lr, betas=betas, weight_decay=0.0, fused=True)


class StepGuard:
    """Steps an optimizer where loss and gradient norm are finite, and counts the other times."""

    def __init__(self):
        self.skipped_in_a_row = 0

    def step(self, optimizer: torch.optim.Optimizer, loss: float, grad_norm: float) -> bool:
        """Whether a step was taken; either way the gradients are gone. Raises NonFiniteError when too
        many in a row were not."""
        finite = math.isfinite(loss) and math.isfinite(grad_norm)
        if finite:
            optimizer.step()
        optimizer.zero_grad()
        self.skipped_in_a_row = 0 if finite else self.skipped_in_a_row + 1
        if self.skipped_in_a_row == MOST_SKIPPED:
            raise NonFiniteError(
                f"loss {loss}, gradient norm {grad_norm}: not finite in {MOST_SKIPPED} updates in a row"
            )
        return finite
