"""What the trainer asks of a proposer, and self-play, which is the plainest one.

A step asks whose proposals to sample (`author`), tells which of them are valid, asks which problems the
solver answers n times and learns from (`taught`), and tells how often each was solved (`judged`).
Self-play teaches what was proposed. The controls change one thing of it each, and the environment draws
problems by itself; `table.py` has their names.
"""

from collections.abc import Mapping, Sequence
from random import Random
from typing import Any, ClassVar

from custom_types import Policy, Problem
from model.args import AZRArgs

Followed = Mapping[int, Sequence[Problem]]  # by step, what another run proposed and could teach


class Proposer:
    """Who writes a step's problems, and which problems the solver is taught.

    writes: whether there are proposals; learns: whether they enter the loss; teaches_others: whether the
    solver is taught other problems beside them. followed: what the run `--yoked-to` proposed.
    drawing_rng: draws where the environment does.
    """

    writes: ClassVar[bool] = True
    learns: ClassVar[bool] = True
    teaches_others: ClassVar[bool] = False

    def __init__(self, policy: Policy, args: AZRArgs, followed: Followed):
        self.args, self.followed = args, followed
        self.drawing_rng = Random(f"{args.seed}/drawing")
        self.author: Policy | None = policy if self.writes else None

    @property
    def span(self) -> tuple[int, int, float]:
        """The range of primes and the share that is held out, as `trained_problems` takes them."""
        return self.args.min_prime, self.args.max_prime, self.args.held_out

    def taught(self, step: int, valid: Sequence[Problem]) -> list[Problem]:
        """The distinct problems that the solver is taught in a step, given its distinct valid
        proposals. Held-out problems are not among `valid`, nor may they be taught."""
        raise NotImplementedError

    def judged(self, solve_rates: Mapping[Problem, float]) -> None:
        """Hear the share of right attempts at each problem that was attempted n times in this step."""

    def state_dict(self) -> dict[str, Any]:
        """What another process cannot make again, in JSON's types and tensors."""
        return {}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Become the proposer that `state` was taken from."""


class SelfPlay(Proposer):
    """The policy in training proposes and learns to; what is valid is taught."""

    def taught(self, step: int, valid: Sequence[Problem]) -> list[Problem]:
        return list(valid)
