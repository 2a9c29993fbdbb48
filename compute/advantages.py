"""Rewards in, advantages out: task-relative REINFORCE++ (arXiv 2505.03335, eq. 8).

    A = (r - mean) / std    over the rollouts of one (role, task) cell of the current batch

with the unbiased standard deviation (n - 1). No per-prompt group, no moving average, no second
normalisation. Example: rewards 1, 0, 0, 1 in one cell have mean 1/2 and std sqrt(1/3), so their
advantages are +-0.866.
"""

from collections import Counter
from collections.abc import Sequence

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
) -> Tensor:
    """Advantages (n,) float32 of `rewards` (n,) float, normalised within `cells` (n,) int in 0..5.

    mode: "task_relative" (the paper), or for comparison "global", one cell for all (REINFORCE++), or
    "grpo", within `groups` (n,) int, negative where a row has no group and its cell counts instead.
    A cell or group whose rewards are all equal, or with one member, gets exactly 0: it says nothing
    about which of its responses were better. Raises ValueError on other shapes, cells, modes or
    non-finite rewards.
    """
    if rewards.ndim != 1 or rewards.shape != cells.shape:
        raise ValueError(
            f"rewards {tuple(rewards.shape)} and cells {tuple(cells.shape)} must be (n,)"
        )
    if not torch.isfinite(rewards).all():
        raise ValueError("rewards must be finite")
    if len(cells) and not (0 <= cells.min() and cells.max() < len(CELLS)):
        raise ValueError(f"cells must lie in 0..{len(CELLS) - 1}: {cells.unique().tolist()}")
    if mode not in ADVANTAGE_MODES or (mode == "grpo") != (groups is not None):
        raise ValueError(
            f"mode {mode!r} must be one of {ADVANTAGE_MODES}; groups go with grpo alone"
        )
    if mode == "global":
        cells = torch.zeros_like(cells)
    elif mode == "grpo":
        cells = torch.where(groups >= 0, groups + len(CELLS), cells)
    return _normalise_within(rewards, cells)


def _normalise_within(rewards: Tensor, groups: Tensor) -> Tensor:
    rewards = rewards.double()
    advantages = torch.zeros_like(rewards)
    for group in groups.unique():
        members = groups == group
        own = rewards[members]
        if own.max() > own.min():
            advantages[members] = (own - own.mean()) / own.std(correction=1)
    return advantages.float()


def attempt_groups(scored: Sequence[Scored], n_attempts: int) -> Tensor:
    """For "grpo": (n,) int64, a number for each problem with at least `n_attempts` answers among
    `scored`; -1 for any other row."""
    answered = Counter(item.rollout.problem for item in scored if item.rollout.role is Role.SOLVER)
    attempted = [problem for problem, count in answered.items() if count >= n_attempts]
    numbers = {problem: number for number, problem in enumerate(attempted)}
    return torch.tensor(
        [
            numbers.get(item.rollout.problem, -1) if item.rollout.role is Role.SOLVER else -1
            for item in scored
        ]
    )
