"""Rewards in, advantages out: task-relative REINFORCE++ (arXiv 2505.03335, eq. 8).

    A = (r - mean) / std    over the rollouts of one (role, task) cell of the current batch

with the unbiased standard deviation (n - 1). No per-prompt group, no moving average, no second
normalisation. Example: rewards 1, 0, 0, 1 in one cell have mean 1/2 and std sqrt(1/3), so their
advantages are +-0.866.

What a rollout costs, beside what it earns, is subtracted from its advantage after that. So a small cost
stays small even if all rewards of a cell are equal.
"""

from collections import Counter
from collections.abc import Callable, Sequence

import torch
from torch import Tensor

from custom_types import CELLS, Role, Scored

ADVANTAGE_MODES = ("task_relative", "global", "grpo")


def compute_advantages(
    rewards: Tensor,
    cells: Tensor,
    *,
    mode: str = "task_relative",
    groups: Tensor | None = None,
    costs: Tensor | None = None,
) -> Tensor:
    """Advantages (n,) float32 of `rewards` (n,) float, normalised within `cells` (n,) int in 0..5.

    mode: "task_relative" (the paper), or for comparison "global", one cell for all (REINFORCE++), or
    "grpo", within `groups` (n,) int; a rollout with a negative group is compared within its cell.
    If all rewards of a cell or group are equal, or there is only one, its advantages are exactly 0: it
    says nothing about which of its responses were better. costs: (n,) float, in standard deviations of
    the rewards; each, less the mean cost of its cell, is subtracted from the advantage. Raises
    ValueError for other shapes, cells and modes, and for numbers that are not finite.
    """
    if rewards.ndim != 1 or rewards.shape != cells.shape:
        raise ValueError(
            f"rewards {tuple(rewards.shape)} and cells {tuple(cells.shape)} must be (n,)"
        )
    if costs is None:
        costs = torch.zeros_like(rewards)
    if costs.shape != rewards.shape:
        raise ValueError(f"costs {tuple(costs.shape)} must be {tuple(rewards.shape)}")
    if not (torch.isfinite(rewards).all() and torch.isfinite(costs).all()):
        raise ValueError("rewards and costs must be finite")
    if len(cells) and not (0 <= cells.min() and cells.max() < len(CELLS)):
        raise ValueError(f"cells must lie in 0..{len(CELLS) - 1}: {cells.unique().tolist()}")
    if mode not in ADVANTAGE_MODES or (mode == "grpo") != (groups is not None):
        raise ValueError(
            f"mode {mode!r} must be one of {ADVANTAGE_MODES}; groups go with grpo alone"
        )
    compared = cells
    if mode == "global":
        compared = torch.zeros_like(cells)
    elif groups is not None:
        compared = torch.where(groups >= 0, groups + len(CELLS), cells)
    advantages = _within(compared, rewards, _normalised) - _within(cells, costs, _centred)
    return advantages.float()


def _within(groups: Tensor, values: Tensor, change: Callable[[Tensor], Tensor]) -> Tensor:
    """`change` of the values of each group, in float64; 0 where they are all equal."""
    values = values.double()
    changed = torch.zeros_like(values)
    for group in groups.unique():
        members = groups == group
        of_group = values[members]
        if of_group.max() > of_group.min():
            changed[members] = change(of_group)
    return changed


def _normalised(values: Tensor) -> Tensor:
    return (values - values.mean()) / values.std(correction=1)


def _centred(values: Tensor) -> Tensor:
    return values - values.mean()


def crowding_cost(copies: int, batch_size: int, weight: float) -> float:
    """What a valid proposal's advantage loses because `copies` of the `batch_size` proposals of its cell,
    itself among them, are the same problem: `weight` times their share."""
    return weight * copies / batch_size


def attempt_groups(scored: Sequence[Scored], n_attempts: int) -> Tensor:
    """For "grpo": (n,) int64, of each answer the number of its problem if `scored` has at least
    `n_attempts` answers to that, and -1 for every other rollout."""
    answered = Counter(item.rollout.problem for item in scored if item.rollout.role is Role.SOLVER)
    attempted = [problem for problem, count in answered.items() if count >= n_attempts]
    numbers = {problem: number for number, problem in enumerate(attempted)}
    return torch.tensor(
        [
            numbers.get(item.rollout.problem, -1) if item.rollout.role is Role.SOLVER else -1
            for item in scored
        ]
    )
