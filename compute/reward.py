"""Verdicts and solve rates in, one float a rollout out. The only home of reward numbers.

A solver earns 1 for a correct answer, -0.5 for a well-formed wrong one, -1 for a malformed one. A
proposer earns -1 for a malformed proposal, `invalid_reward` for a well-formed one that has no legal
completion, and for a valid one what `compute_r_propose` says of its solve rate. Example: a valid
problem that 3 of 8 attempts solved earns its proposer 1 - 3/8 = 0.625.
"""

from collections import defaultdict
from collections.abc import Sequence

from custom_types import Judged, Problem, Role, Verdict

CORRECT_REWARD = 1.0
WRONG_REWARD = -0.5
MALFORMED_REWARD = -1.0
ANSWER_REWARDS = {
    Verdict.CORRECT: CORRECT_REWARD,
    Verdict.WRONG: WRONG_REWARD,
    Verdict.MALFORMED: MALFORMED_REWARD,
}
FORMAT_REWARDS = ANSWER_REWARDS | {Verdict.WRONG: CORRECT_REWARD}  # for a control
REWARD_SCHEMES = ("learnability", "variance", "alignment", "constant", "format")


def solve_rate_of(verdicts: Sequence[Verdict]) -> float:
    """r, the share of correct ones among the n >= 1 attempts at a problem."""
    return sum(verdict is Verdict.CORRECT for verdict in verdicts) / len(verdicts)


def compute_solve_rates(attempts: Sequence[Judged]) -> dict[Problem, float]:
    """The share of correct attempts at each problem that was attempted."""
    outcomes: dict[Problem, list[Verdict]] = defaultdict(list)
    for attempt in attempts:
        outcomes[attempt.rollout.problem].append(attempt.verdict)
    return {problem: solve_rate_of(verdicts) for problem, verdicts in outcomes.items()}


def solve_variance(solve_rate: float) -> float:
    """r (1 - r), the variance of whether one attempt is correct: 1/4, the most, for r = 1/2, and 0 for
    r = 0 and r = 1. Raises ValueError for a rate r outside 0..1."""
    if not 0 <= solve_rate <= 1:
        raise ValueError(f"solve_rate must lie in 0..1, not {solve_rate}")
    return solve_rate * (1 - solve_rate)


def compute_r_propose(
    solve_rate: float, *, extreme_reward: float = 0.0, scheme: str = "learnability"
) -> float:
    """Learnability of a valid problem (arXiv 2505.03335, eq. 4): 1 - r, but 0 for r = 0 and r = 1.

    solve_rate: r, the share of the n sampled attempts at this very problem that were correct, in
    0..1. extreme_reward: what r = 0 and r = 1 earn (the AZR code pays -0.5). scheme: with "variance",
    r (1 - r) in place of 1 - r. Raises ValueError for a rate outside 0..1.
    """
    variance = solve_variance(solve_rate)
    if variance == 0:
        return extreme_reward
    return variance if scheme == "variance" else 1 - solve_rate


def compute_r_total(
    role: Role,
    verdict: Verdict,
    measured: float | None = None,
    *,
    invalid_reward: float = -0.5,
    extreme_reward: float = 0.0,
    scheme: str = "learnability",
) -> float:
    """The reward of one rollout.

    measured: of a VALID proposal what it is paid by, its solve rate or with "alignment" its alignment;
    needed for nothing else. scheme: "learnability", "variance", "alignment", which is paid as it is, or
    as a control "constant", by which every valid proposal earns 1, or "format", by which every
    well-formed answer earns 1 too. Raises ValueError for a verdict that the role cannot get, and if
    nothing was measured.
    """
    if scheme not in REWARD_SCHEMES:
        raise ValueError(f"scheme must be one of {REWARD_SCHEMES}, not {scheme!r}")
    if role is Role.SOLVER:
        rewards = FORMAT_REWARDS if scheme == "format" else ANSWER_REWARDS
        if verdict in rewards:
            return rewards[verdict]
    elif verdict is Verdict.MALFORMED:
        return MALFORMED_REWARD
    elif verdict is Verdict.INVALID:
        return invalid_reward
    elif verdict is Verdict.VALID and scheme in ("constant", "format"):
        return CORRECT_REWARD
    elif verdict is Verdict.VALID and measured is not None:
        if scheme == "alignment":
            return measured
        return compute_r_propose(measured, extreme_reward=extreme_reward, scheme=scheme)
    raise ValueError(f"no reward for a {role} with verdict {verdict} and solve rate {measured}")
