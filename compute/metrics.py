"""A step's records in, one flat dict of metric keys out. Every key is joined from the enum values of
the record it describes, so a label cannot belong to another series.

Fractions are over the B proposals, or the answers, of a cell. A mean over nothing is NaN (null in
`metrics.jsonl`).
"""

from collections import defaultdict
from collections.abc import Callable, Iterable, Mapping, Sequence
from statistics import fmean

import numpy as np
import torch

from custom_types import CELLS, TASKS, MiniBatch, Role, Rollout, Round, Scored, Verdict
from prime_inversion import guess_rate, is_held_out

NAN = float("nan")
TOKEN_MEANS = ("approx_kl", "clip_ratio")  # of the objective's diagnostics


def _mean(values: Iterable[float]) -> float:
    values = list(values)
    return fmean(values) if values else NAN


def cell_metrics(scored: Sequence[Scored]) -> dict[str, float]:
    """Reward mean and spread and the malformed share of each (role, task) cell that has rollouts."""
    metrics, constant = {}, []
    rewards, malformed = defaultdict(list), defaultdict(list)
    for item in scored:
        cell = item.rollout.role, item.rollout.task
        rewards[cell].append(item.reward)
        malformed[cell].append(item.verdict is Verdict.MALFORMED)
    for role, task in CELLS:
        earned = rewards[role, task]
        metrics[f"reward/{role}_{task}"] = _mean(earned)
        metrics[f"reward_std/{role}_{task}"] = float(np.std(earned)) if earned else NAN
        metrics[f"malformed_frac/{role}_{task}"] = _mean(malformed[role, task])
        if earned:
            constant.append(max(earned) == min(earned))
    metrics["frac_reward_zero_std"] = _mean(constant)
    return metrics


def proposal_metrics(
    played: Round, min_prime: int, max_prime: int, held_out: float = 0.0
) -> dict[str, float]:
    """What was proposed and how often it was solved, by task. held_out: the share of problems that are
    never trained on."""
    metrics = {}
    for task in TASKS:
        proposals = [item for item in played.proposals if item.rollout.task is task]
        valid = [item.proposed for item in proposals if item.proposed is not None]
        novel = [problem for problem in played.novel if problem.task is task]
        rates = {p: rate for p, rate in played.solve_rates.items() if p.task is task}
        metrics[f"valid_frac/{task}"] = len(valid) / len(proposals) if proposals else NAN
        metrics[f"novel_frac/{task}"] = len(novel) / len(proposals) if proposals else NAN
        metrics[f"distinct_frac/{task}"] = len(set(valid)) / len(proposals) if proposals else NAN
        metrics[f"held_out_frac/{task}"] = _mean(is_held_out(p, held_out) for p in valid)
        metrics[f"proposed_prime_mean/{task}"] = _mean(problem.p for problem in valid)
        metrics[f"solve_rate/{task}"] = _mean(rates.values())
        metrics[f"learnable_frac/{task}"] = _mean(0 < rate < 1 for rate in rates.values())
        metrics[f"guess_rate/{task}"] = _mean(guess_rate(p, min_prime, max_prime) for p in rates)
    return metrics


def answer_metrics(played: Round) -> dict[str, float]:
    """What the sampled answers were for, in shares: taught, to problems of this step; refill, to the
    buffer's; untrained, sampled only to measure a problem."""
    sampled = sum(one.role is Role.SOLVER for one in played.completions)
    trained = len(played.answers)
    counts = dict(taught=played.taught, refill=trained - played.taught, untrained=sampled - trained)
    return {f"answer_frac/{use}": n / sampled if sampled else NAN for use, n in counts.items()}


def round_metrics(
    played: Round, min_prime: int, max_prime: int, held_out: float = 0.0
) -> dict[str, float]:
    """Everything about a rollout phase but its time."""
    return {
        **cell_metrics(played.scored),
        **proposal_metrics(played, min_prime, max_prime, held_out),
        **answer_metrics(played),
        "completions/mean_length": _mean(len(r.response_ids) for r in played.completions),
        "completions/clipped_ratio": _mean(not r.finished for r in played.completions),
    }


def token_count(rollouts: Sequence[Rollout]) -> int:
    """Prompt and response tokens."""
    return sum(len(rollout.prompt_ids) + len(rollout.response_ids) for rollout in rollouts)


def time_metrics(rollouts: Sequence[Rollout], rollout: float, update: float) -> dict[str, float]:
    """Seconds of the two phases, and what was sampled a second of both."""
    seconds = rollout + update
    return {
        "step_time": seconds,
        "time/rollout": rollout,
        "time/update": update,
        "perf/tokens_per_second": sum(len(r.response_ids) for r in rollouts) / seconds,
        "perf/completions_per_second": len(rollouts) / seconds,
    }


class SamplingMetrics:
    """What the weights that sampled a step say of it: the mean entropy of a response token, in nats,
    by role, and how far the training forward is from the sampler: the ratio of their probabilities,
    which is 1 where both compute the same, and its logarithm."""

    def __init__(self) -> None:
        self._entropy = dict.fromkeys(Role, 0.0)
        self._tokens = dict.fromkeys(Role, 0.0)
        self._difference = self._differences = self._ratio = self._kl = 0.0

    def add(self, batch: MiniBatch, logprobs: torch.Tensor, entropy: torch.Tensor) -> None:
        """logprobs, entropy: (n, length) of the responses of `batch`, whose old ones are the sampler's.
        All are on the CPU, as float64 is not everywhere."""
        mask = batch.response_mask
        log_ratio = torch.where(mask, logprobs - batch.old_logprobs, 0.0).double()
        counts = batch.counts.double()
        self._difference = max(self._difference, log_ratio.abs().max().item())
        self._differences += (log_ratio.abs().sum(1) @ counts).item()
        self._ratio = max(self._ratio, torch.where(mask, log_ratio.exp(), 0.0).max().item())
        self._kl += ((log_ratio.expm1() - log_ratio).sum(1) @ counts).item()
        entropies = (entropy.sum(1) * batch.counts).tolist()
        tokens = (mask.sum(1) * batch.counts).tolist()
        for cell, nats, count in zip(batch.cells.tolist(), entropies, tokens, strict=True):
            role, _ = CELLS[cell]
            self._entropy[role] += nats
            self._tokens[role] += count

    @classmethod
    def merged(cls, of_processes: Iterable["SamplingMetrics"]) -> "SamplingMetrics":
        """What one would be that had been given all that these were."""
        whole = cls()
        for one in of_processes:
            whole._difference = max(whole._difference, one._difference)
            whole._differences += one._differences
            whole._ratio = max(whole._ratio, one._ratio)
            whole._kl += one._kl
            for role in Role:
                whole._entropy[role] += one._entropy[role]
                whole._tokens[role] += one._tokens[role]
        return whole

    def metrics(self) -> dict[str, float]:
        """`entropy/{role}`, NaN for a role without responses, and `sampling/*`."""
        whole = sum(self._tokens.values())
        metrics = {
            "sampling/logp_difference_max": self._difference,
            "sampling/logp_difference_mean": self._differences / whole if whole else NAN,
            "sampling/ratio_max": self._ratio,
            "sampling/approx_kl": self._kl / whole if whole else NAN,
        }
        for role, tokens in self._tokens.items():
            metrics[f"entropy/{role}"] = self._entropy[role] / tokens if tokens else NAN
        return metrics


def merged_diagnostics(
    diagnostics: Sequence[Mapping[str, float]], merge: Callable[[Iterable[float]], float]
) -> dict[str, float]:
    """Several diagnostics with the same keys as one. `tokens` are added up, of a maximum the maximum is
    taken, of a mean over tokens the mean over all tokens, and of everything else what `merge` makes:
    `sum` for batches that were measured against the denominator of their minibatch, a mean for the
    updates of a step. Of no diagnostics none."""
    tokens = sum(one["tokens"] for one in diagnostics)
    merged = {}
    for key in diagnostics[0] if diagnostics else ():
        values = [one[key] for one in diagnostics]
        if key.endswith("_max"):
            merged[key] = max(values)
        elif key in TOKEN_MEANS:
            total = sum(one[key] * one["tokens"] for one in diagnostics)
            merged[key] = total / tokens if tokens else 0.0
        else:
            merged[key] = tokens if key == "tokens" else merge(values)
    return merged


def update_metrics(updates: Sequence[Mapping[str, float]]) -> dict[str, float]:
    """A step's updates as one: means, the largest ratio, and how many were skipped."""
    merged = merged_diagnostics(updates, fmean)
    del merged["tokens"]
    return merged | {"skipped_updates": sum(update["skipped_updates"] for update in updates)}
