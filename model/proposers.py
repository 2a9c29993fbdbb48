"""Who writes a step's problems, and which problems the solver is taught: `--proposer` by name.

The trainer asks a proposer two things a step: whose proposals to sample (`author`), and, once they are
judged, which problems the solver answers n times and learns from (`taught`). Self-play teaches what was
proposed. The others are its controls, each with one thing changed. The table of `PROPOSERS` is all that
knows their names.
"""

import copy
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import replace
from random import Random
from typing import ClassVar

import torch

from custom_types import TASKS, Policy, Problem
from model.args import AZRArgs
from prime_inversion import generate_of_each_task, trained_problems


class SelfPlay:
    """The policy in training proposes and learns to; what is valid is taught.

    writes: whether there are proposals; learns: whether they enter the loss; teaches_others: whether the
    solver is taught other problems beside them. followed: what another run proposed, by step: how many
    distinct problems of each task. drawing_rng: draws where the environment does.
    """

    writes: ClassVar[bool] = True
    learns: ClassVar[bool] = True
    teaches_others: ClassVar[bool] = False

    def __init__(self, policy: Policy, args: AZRArgs, followed: Mapping[int, Counter]):
        self.args, self.followed = args, followed
        self.drawing_rng = Random(f"{args.seed}/drawing")
        self.author: Policy | None = policy if self.writes else None

    def taught(self, step: int, valid: Sequence[Problem]) -> list[Problem]:
        """The distinct problems that the solver is taught in a step, given its distinct valid
        proposals. Held-out problems are not among `valid`, nor may they be taught."""
        return list(valid)

    def state_dict(self) -> dict[str, torch.Tensor]:
        """What another process cannot make again."""
        return {}

    def load_state_dict(self, state: dict[str, torch.Tensor]) -> None:
        """Become the proposer that `state` was taken from."""

    def _draw(self, counts: Counter) -> list[Problem]:
        """As many distinct problems of each task as `counts` says, uniformly."""
        span = self.args.min_prime, self.args.max_prime, self.args.held_out
        return [
            problem
            for task in TASKS
            for problem in self.drawing_rng.sample(trained_problems(task, *span), counts[task])
        ]


class Untrained(SelfPlay):
    """Never enters the loss, but shares the weights that the solver's answers change."""

    learns = False


class Frozen(SelfPlay):
    """A snapshot of the policy as it was before the first step; never enters the loss."""

    learns = False

    def __init__(self, policy: Policy, args: AZRArgs, followed: Mapping[int, Counter]):
        super().__init__(policy, args, followed)
        self.snapshot = copy.deepcopy(policy.model).requires_grad_(False)
        self.author = replace(policy, model=self.snapshot)

    def state_dict(self) -> dict[str, torch.Tensor]:
        return dict(self.snapshot.state_dict())

    def load_state_dict(self, state: dict[str, torch.Tensor]) -> None:
        self.snapshot.load_state_dict(state)


class Uniform(SelfPlay):
    """No proposals: the environment draws B problems a task, with replacement."""

    writes = learns = False

    def taught(self, step: int, valid: Sequence[Problem]) -> list[Problem]:
        args = self.args
        drawn = generate_of_each_task(
            args.batch_size, self.drawing_rng, args.min_prime, args.max_prime, args.held_out
        )
        return list(dict.fromkeys(drawn))


class Yoked(SelfPlay):
    """No proposals: the environment draws as many distinct problems as the run `--yoked-to` proposed
    in the same step."""

    writes = learns = False

    def taught(self, step: int, valid: Sequence[Problem]) -> list[Problem]:
        return self._draw(self.followed[step])


class Decoy(SelfPlay):
    """Proposes and learns to as in self-play; the solver is taught as many distinct uniform draws."""

    teaches_others = True

    def taught(self, step: int, valid: Sequence[Problem]) -> list[Problem]:
        return self._draw(Counter(problem.task for problem in valid))


class Nobody(SelfPlay):
    """No problems but those that the buffer began with, which fill up every batch."""

    writes = learns = False

    def taught(self, step: int, valid: Sequence[Problem]) -> list[Problem]:
        return []


PROPOSERS: dict[str, type[SelfPlay]] = {
    "self": SelfPlay,
    "untrained": Untrained,
    "frozen": Frozen,
    "uniform": Uniform,
    "yoked": Yoked,
    "decoy": Decoy,
    "none": Nobody,
}
