"""Controls of self-play, each with one thing changed: who writes, whether that is trained, or which
problems the solver is taught instead of the proposed ones.
"""

import copy
from collections import Counter
from collections.abc import Sequence
from dataclasses import replace

import torch

from custom_types import TASKS, Policy, Problem
from model.args import AZRArgs
from model.proposers.protocol import Followed, Proposer, SelfPlay
from prime_inversion import trained_problems


class Untrained(SelfPlay):
    """Never enters the loss, but shares the weights that the solver's answers change."""

    learns = False


class Frozen(SelfPlay):
    """A snapshot of the policy as it was before the first step; never enters the loss."""

    learns = False

    def __init__(self, policy: Policy, args: AZRArgs, followed: Followed):
        super().__init__(policy, args, followed)
        self.snapshot = copy.deepcopy(policy.model).requires_grad_(False)
        self.author = replace(policy, model=self.snapshot)

    def state_dict(self) -> dict[str, torch.Tensor]:
        return dict(self.snapshot.state_dict())

    def load_state_dict(self, state: dict[str, torch.Tensor]) -> None:
        self.snapshot.load_state_dict(state)


class AsMany(Proposer):
    """The solver is taught distinct problems drawn uniformly, of each task as many as others are of it."""

    def as_many(self, others: Sequence[Problem]) -> list[Problem]:
        """Such problems, in place of `others`."""
        counts = Counter(problem.task for problem in others)
        return [
            problem
            for task in TASKS
            for problem in self.drawing_rng.sample(trained_problems(task, *self.span), counts[task])
        ]


class Decoy(AsMany):
    """Proposes and learns to as in self-play; the solver is taught as many other problems."""

    teaches_others = True

    def taught(self, step: int, valid: Sequence[Problem]) -> list[Problem]:
        return self.as_many(valid)


class Yoked(AsMany):
    """No proposals: as many problems as the run `--yoked-to` proposed in the same step."""

    writes = learns = False

    def taught(self, step: int, valid: Sequence[Problem]) -> list[Problem]:
        return self.as_many(self.followed[step])


class Replayed(Proposer):
    """No proposals: the very problems that the run `--yoked-to` proposed in the same step."""

    writes = learns = False

    def taught(self, step: int, valid: Sequence[Problem]) -> list[Problem]:
        return list(self.followed[step])


class Nobody(Proposer):
    """No problems but those that the buffer began with, which fill up every batch."""

    writes = learns = False

    def taught(self, step: int, valid: Sequence[Problem]) -> list[Problem]:
        return []
