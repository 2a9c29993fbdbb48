"""By what a valid proposal is paid: the attempts of a step in, a number for each problem out, of which
`compute/reward.py` makes its reward.

    learnability, ...   the share r̄ of right attempts
    alignment           whether what the last step learned helps with the problem, -1 to 1

For the second, take a problem's attempts, each with its reward R_i less their mean. Their policy gradient
g, the mean of (R_i - R̄) ∇ log π(attempt i), is the direction in which attempts at this problem earn
more. The movement m is what the last step added to the weights, so g · m is how much more they earn for
it, to first order. The problem is worth the cosine of g and m, over the largest size of a cosine in the
step: a gradient of a few attempts is mostly noise, and the cosines of a step lie near 0. It is worth 0
where all its attempts earn the same, and before anything has moved. (The idea is that of arXiv
2609.30063, known to us second hand; nothing here claims to be its formula.)
"""

from collections import defaultdict
from collections.abc import Mapping, Sequence
from statistics import fmean
from typing import Any

import torch
from torch import Tensor

from buffer.base_buff import ReplayBuffer
from compute.reward import compute_r_total
from custom_types import Judged, Problem
from model.learner import Learner
from utils.processes import gather, share


class SolveRates:
    """The share of right attempts. learner: of the policy that attempts."""

    def __init__(self, learner: Learner):
        self.learner = learner

    def of(
        self, attempts: Sequence[Judged], solve_rates: Mapping[Problem, float]
    ) -> Mapping[Problem, float]:
        """Each proposed problem with what it is paid by. attempts: at these problems. solve_rates: of them,
        and perhaps of others. Asked once in each step, before the step's updates."""
        return solve_rates

    def state_dict(self) -> dict[str, Any]:
        """What another process cannot make again, in JSON's types and tensors."""
        return {}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Go on as the one that `state` was taken from would."""


class Alignment(SolveRates):
    """The cosine of a problem's policy gradient and of the weights' last movement, over the largest size
    of one. before: the weights when it was last asked."""

    def __init__(self, learner: Learner):
        super().__init__(learner)
        self.before = self._weights()

    def of(
        self, attempts: Sequence[Judged], solve_rates: Mapping[Problem, float]
    ) -> Mapping[Problem, float]:
        now = self._weights()
        movement, self.before = now - self.before, now
        by_problem: dict[Problem, list[Judged]] = defaultdict(list)
        for attempt in attempts:
            by_problem[attempt.rollout.problem].append(attempt)
        measured = [(one, self._cosine(by_problem[one], movement)) for one in share([*by_problem])]
        cosines = dict(gather(measured))
        largest = max(map(abs, cosines.values()), default=0.0) or 1.0
        return {problem: cosine / largest for problem, cosine in cosines.items()}

    def _weights(self) -> Tensor:
        """A copy of those that are trained, flat."""
        return torch.cat([weight.detach().flatten() for weight in self.learner.trained])

    def _cosine(self, attempts: Sequence[Judged], movement: Tensor) -> float:
        """Of the attempts at one problem; 0 where one of the vectors is 0."""
        rewards = [compute_r_total(item.rollout.role, item.verdict) for item in attempts]
        if len(set(rewards)) == 1:
            return 0.0
        advantages = [reward - fmean(rewards) for reward in rewards]
        replay = ReplayBuffer([item.rollout for item in attempts], advantages)
        return torch.cosine_similarity(self.learner.gradient(replay), movement, dim=0).item()

    def state_dict(self) -> dict[str, Any]:
        return {"before": self.before}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        self.before = state["before"].to(self.before)


MEASURES = {"alignment": Alignment}  # `--reward` by name; all others are paid by `SolveRates`
