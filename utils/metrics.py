"""A step's records in, one flat dict of metric keys out. Every key is joined from the enum values of
the record it describes, so a label cannot belong to another series.

Fractions are over the B proposals, or the answers, of a cell. A mean over nothing is NaN (null in
`metrics.jsonl`).
"""

from collections.abc import Iterable, Mapping, Sequence
from statistics import fmean, pstdev

from custom_types import CELLS, TASKS, Problem, Role, Rollout, Scored, Verdict
from prime_inversion import guess_rate


def _mean(values: Iterable[float]) -> float:
    values = list(values)
    return fmean(values) if values else float("nan")


def cell_metrics(scored: Sequence[Scored]) -> dict[str, float]:
    """Reward mean and spread and the malformed share of each (role, task) cell that has rollouts."""
    metrics, constant = {}, []
    for role, task in CELLS:
        own = [item for item in scored if (item.rollout.role, item.rollout.task) == (role, task)]
        rewards = [item.reward for item in own]
        metrics[f"reward/{role}_{task}"] = _mean(rewards)
        metrics[f"reward_std/{role}_{task}"] = pstdev(rewards) if rewards else float("nan")
        metrics[f"malformed_frac/{role}_{task}"] = _mean(
            item.verdict is Verdict.MALFORMED for item in own
        )
        if own:
            constant.append(max(rewards) == min(rewards))
    metrics["frac_reward_zero_std"] = _mean(constant)
    return metrics


def proposal_metrics(
    proposals: Sequence[tuple[Rollout, Problem | None]],
    novel: Sequence[Problem],
    solve_rates: Mapping[Problem, float],
    min_prime: int,
    max_prime: int,
) -> dict[str, float]:
    """What was proposed, by task.

    proposals: each proposal with its problem, None unless valid. novel: the valid ones that the
    problem buffer did not hold, each once. solve_rates: of each distinct valid problem.
    """
    metrics = {}
    for task in TASKS:
        own = [problem for rollout, problem in proposals if rollout.task is task]
        valid = [problem for problem in own if problem is not None]
        distinct = dict.fromkeys(valid)
        metrics[f"valid_frac/{task}"] = _mean(problem is not None for problem in own)
        metrics[f"novel_frac/{task}"] = (
            sum(problem.task is task for problem in novel) / len(own) if own else float("nan")
        )
        metrics[f"distinct_frac/{task}"] = len(distinct) / len(own) if own else float("nan")
        metrics[f"proposed_prime_mean/{task}"] = _mean(problem.p for problem in valid)
        metrics[f"solve_rate/{task}"] = _mean(solve_rates[problem] for problem in distinct)
        metrics[f"guess_rate/{task}"] = _mean(
            guess_rate(problem, min_prime, max_prime) for problem in distinct
        )
    return metrics


def completion_metrics(rollouts: Sequence[Rollout]) -> dict[str, float]:
    """Length in tokens, the end token included, and the share cut off before it."""
    return {
        "completions/mean_length": _mean(len(rollout.response_ids) for rollout in rollouts),
        "completions/clipped_ratio": _mean(not rollout.finished for rollout in rollouts),
    }


def entropy_metrics(rollouts: Sequence[Rollout], entropies: Sequence[float]) -> dict[str, float]:
    """Mean entropy a response token, in nats, by role. entropies: the sum over each rollout."""
    metrics = {}
    for role in Role:
        own = [(e, r) for e, r in zip(entropies, rollouts, strict=True) if r.role is role]
        tokens = sum(len(rollout.response_ids) for _, rollout in own)
        metrics[f"entropy/{role}"] = sum(e for e, _ in own) / tokens if tokens else float("nan")
    return metrics
