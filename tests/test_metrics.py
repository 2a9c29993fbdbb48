"""Metric keys and what stands under them. Oracle: arithmetic on rows made by hand."""

import math
from dataclasses import replace

import pytest
import torch

from compute.metrics import (
    SamplingMetrics,
    cell_metrics,
    merged_diagnostics,
    proposal_metrics,
    round_metrics,
    time_metrics,
    token_count,
    update_metrics,
)
from custom_types import (
    CELLS,
    TASKS,
    MiniBatch,
    Problem,
    Role,
    Rollout,
    Round,
    Scored,
    TaskType,
    Verdict,
)


def scored(role: Role, task: TaskType, reward: float) -> Scored:
    verdict = Verdict.MALFORMED if reward == -1 else Verdict.CORRECT
    problem = Problem(task, 2, 4, 7)
    return Scored(Rollout(role, task, problem, (1,), (2,), (0.0,), "", True), verdict, reward)


@pytest.mark.parametrize("cell", CELLS, ids=lambda cell: "_".join(cell))
def test_no_metric_key_can_be_mislabelled(cell):
    """Exactly one cell has a mean reward of -0.25 and half its rows malformed; nobody else has."""
    rows = [scored(*other, 1.0) for other in CELLS if other != cell for _ in range(2)]
    rows[3:3] = [scored(*cell, 0.5), scored(*cell, -1.0)]
    metrics = cell_metrics(rows)
    role, task = cell
    assert [key for key, value in metrics.items() if value == -0.25] == [f"reward/{role}_{task}"]
    assert [key for key, value in metrics.items() if value == 0.5] == [
        f"malformed_frac/{role}_{task}"
    ]
    assert [k for k, v in metrics.items() if v == 0.75] == [f"reward_std/{role}_{task}"]
    assert metrics["frac_reward_zero_std"] == 5 / 6


@pytest.mark.parametrize("task", TASKS)
def test_proposal_metrics_belong_to_their_task(task):
    """One task proposes 2, 4, 7 twice, a new 3, 4, 11 once and one invalid; the others nothing valid."""
    known, new = Problem(task, 2, 4, 7), Problem(task, 3, 4, 11)
    rows = [
        replace(scored(Role.PROPOSER, task, 1.0), proposed=problem)
        for problem in (known, known, new, None)
    ]
    rows += [scored(Role.PROPOSER, other, 1.0) for other in TASKS if other != task]
    played = Round(tuple(rows), (new,), {known: 0.25, new: 0.75}, (), 0, ())
    metrics = proposal_metrics(played, 5, 13)
    own = {key.split("/")[0]: value for key, value in metrics.items() if key.endswith(task)}
    guess = (1 / 4 + 1 / 4) / 2 if task is TaskType.INDUCTION else (1 / 6 + 1 / 10) / 2
    # Induction: 2 * 4 - 1 = 7 and 3 * 4 - 1 = 11 each fit one of the four primes to 13.
    assert own == {
        "valid_frac": 0.75, "novel_frac": 0.25, "distinct_frac": 0.5, "held_out_frac": 0, "proposed_prime_mean": 25 / 3,
        "solve_rate": 0.5, "guess_rate": pytest.approx(guess), "learnable_frac": 1.0,
    }  # fmt: skip
    for other in TASKS:
        if other != task:
            assert metrics[f"valid_frac/{other}"] == 0 and math.isnan(
                metrics[f"solve_rate/{other}"]
            )


def test_a_problem_is_learnable_that_is_solved_sometimes_and_not_always():
    """Of four problems of a task one is never solved, one always, and two in between."""
    task = TASKS[0]
    rates = {Problem(task, x, pow(x, -1, 7), 7): x / 4 - 0.5 for x in (2, 3, 5, 6)}
    rates[Problem(task, 5, 3, 7)], rates[Problem(task, 6, 6, 7)] = 7 / 8, 1.0
    assert sorted(rates.values()) == [0, 0.25, 0.875, 1]
    metrics = proposal_metrics(Round((), (), rates, (), 0, ()), 5, 13)
    assert metrics[f"learnable_frac/{task}"] == 0.5
    assert math.isnan(metrics[f"learnable_frac/{TASKS[1]}"])


# ---------------------------------------------------------------- a round


def test_what_answers_were_for_and_how_long_completions_are():
    """Of 10 sampled answers 6 are trained on, 4 of them taught; of 12 completions with prompts of 2 tokens
    and responses of 3, three have not ended."""

    def one(role, finished):
        return Rollout(
            role, TASKS[0], Problem(TASKS[0], 2, 4, 7), (1, 1), (2, 2, 2), (0.0,) * 3, "", finished
        )

    answers = [one(Role.SOLVER, finished=number > 1) for number in range(10)]
    proposals = [one(Role.PROPOSER, finished=number > 0) for number in range(2)]
    scored_answers = tuple(Scored(own, Verdict.WRONG, -0.5) for own in answers[:6])
    played = Round((), (), {}, scored_answers, 4, (*proposals, *answers))
    metrics = round_metrics(played, 5, 13)
    assert metrics["answer_frac/taught"] == 4 / 10
    assert metrics["answer_frac/refill"] == 2 / 10
    assert metrics["answer_frac/untrained"] == 4 / 10
    assert metrics["completions/mean_length"] == 3
    assert metrics["completions/clipped_ratio"] == 3 / 12
    assert token_count(played.completions) == 12 * (2 + 3)
    # 36 sampled tokens and 12 completions in 3 + 1 seconds.
    assert time_metrics(played.completions, 3.0, 1.0) == {
        "step_time": 4, "time/rollout": 3, "time/update": 1, "perf/tokens_per_second": 9,
        "perf/completions_per_second": 3,
    }  # fmt: skip


# ---------------------------------------------------------------- the sampler, by hand


PROPOSER_CELL, SOLVER_CELL = 1, 4


def sampled(ratios, counts, cells) -> tuple[MiniBatch, torch.Tensor]:
    """Responses whose tokens' training probabilities are so many times the sampler's, and their
    log-probabilities; entries beyond a response are junk."""
    length = max(map(len, ratios))
    mask = torch.tensor([[k < len(own) for k in range(length)] for own in ratios])
    padded = torch.tensor([[*own, *[77.0] * (length - len(own))] for own in ratios])
    old = torch.full(mask.shape, -2.0)
    empty = torch.zeros(len(ratios), 1)
    batch = MiniBatch(
        empty, empty, empty, empty, empty, response_mask=mask, old_logprobs=old,
        advantages=torch.ones(len(ratios)), weights=torch.full((len(ratios),), 100.0),
        counts=torch.tensor(counts), cells=torch.tensor(cells),
    )  # fmt: skip
    return batch, old + padded.log()


def entropies(batch: MiniBatch, nats) -> torch.Tensor:
    return batch.response_mask * torch.tensor(nats)[:, None]


def sampling_by_hand() -> tuple[SamplingMetrics, SamplingMetrics]:
    """A proposal of two tokens, sampled once, and an answer of one, sampled three times; elsewhere an
    answer of two tokens, sampled once."""
    first, second = SamplingMetrics(), SamplingMetrics()
    batch, logprobs = sampled([[0.5, 0.8], [0.25]], [1.0, 3.0], [PROPOSER_CELL, SOLVER_CELL])
    first.add(batch, logprobs, entropies(batch, [1.5, 0.5]))
    batch, logprobs = sampled([[0.5, 0.9]], [1.0], [SOLVER_CELL])
    second.add(batch, logprobs, entropies(batch, [2.0]))
    return first, second


def estimate(ratio: float) -> float:
    return ratio - 1 - math.log(ratio)


def test_the_sampler_is_compared_by_ratio_and_by_mean_over_sampled_tokens():
    """Where the training forward finds every token less likely, the largest ratio is below 1: 0.8, and not
    the largest difference of logarithms, ln 4. The means are over 2 + 3 * 1 tokens."""
    metrics = sampling_by_hand()[0].metrics()
    kl = (estimate(0.5) + estimate(0.8) + 3 * estimate(0.25)) / 5
    assert metrics["sampling/ratio_max"] == pytest.approx(0.8)
    assert metrics["sampling/logp_difference_max"] == pytest.approx(math.log(4))
    assert metrics["sampling/approx_kl"] == pytest.approx(kl)
    mean = (math.log(2) + math.log(1.25) + 3 * math.log(4)) / 5
    assert metrics["sampling/logp_difference_mean"] == pytest.approx(mean)
    assert metrics["entropy/proposer"] == pytest.approx(1.5)
    assert metrics["entropy/solver"] == pytest.approx(0.5)


def test_what_several_processes_found_is_one_sampler():
    """Maxima of maxima, and means over the tokens of all: of answers 3 of 0.5 nats and 2 of 2."""
    metrics = SamplingMetrics.merged(sampling_by_hand()).metrics()
    kl = (2 * estimate(0.5) + estimate(0.8) + 3 * estimate(0.25) + estimate(0.9)) / 7
    assert metrics["sampling/ratio_max"] == pytest.approx(0.9)
    assert metrics["sampling/logp_difference_max"] == pytest.approx(math.log(4))
    assert metrics["sampling/approx_kl"] == pytest.approx(kl)
    mean = (2 * math.log(2) + math.log(1.25) + 3 * math.log(4) - math.log(0.9)) / 7
    assert metrics["sampling/logp_difference_mean"] == pytest.approx(mean)
    assert metrics["entropy/proposer"] == pytest.approx(1.5)
    assert metrics["entropy/solver"] == pytest.approx((3 * 0.5 + 2 * 2.0) / 5)
    backwards = SamplingMetrics.merged(reversed(sampling_by_hand())).metrics()
    assert backwards == pytest.approx(metrics)


def test_a_step_with_no_token_has_no_divergence():
    metrics = SamplingMetrics().metrics()
    assert math.isnan(metrics["sampling/approx_kl"])
    assert math.isnan(metrics["sampling/logp_difference_mean"]) and math.isnan(
        metrics["entropy/solver"]
    )


# ---------------------------------------------------------------- updates


def test_a_steps_updates_are_one_by_hand():
    """Two updates of 30 and 10 tokens: what is a mean over tokens weighs 3 to 1, a maximum is the
    maximum, the rest are plain means, and skipped ones are counted."""
    common = dict(grad_norm=2.0, skipped_updates=1.0)
    first = dict(approx_kl=0.1, clip_ratio=0.2, ratio_max=1.5, loss=1.0, tokens=30.0, **common)
    second = dict(approx_kl=0.5, clip_ratio=1.0, ratio_max=1.2, loss=3.0, tokens=10.0, **common)
    expected = dict(
        approx_kl=0.2, clip_ratio=0.4, ratio_max=1.5, loss=2.0, grad_norm=2.0, skipped_updates=2.0
    )
    assert update_metrics([first, second]) == pytest.approx(expected)


def test_the_parts_of_an_update_are_summed_and_their_tokens_too():
    """Losses were measured against the whole's denominator; a part without tokens changes nothing."""
    parts = [
        dict(approx_kl=0.1, ratio_max=1.5, loss=1.0, tokens=30.0),
        dict(approx_kl=0.5, ratio_max=1.2, loss=3.0, tokens=10.0),
        dict(approx_kl=0.0, ratio_max=0.0, loss=0.0, tokens=0.0),
    ]
    whole = dict(approx_kl=0.2, ratio_max=1.5, loss=4.0, tokens=40.0)
    assert merged_diagnostics(parts, sum) == pytest.approx(whole)
