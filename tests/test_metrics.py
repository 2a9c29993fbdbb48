"""Metric keys and what stands under them. Oracle: arithmetic on rows made by hand."""

import math

import pytest

from custom_types import CELLS, TASKS, Problem, Role, Rollout, Round, Scored, TaskType, Verdict
from utils.metrics import cell_metrics, proposal_metrics


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
    rows = [(scored(Role.PROPOSER, task, 1.0), p) for p in (known, known, new, None)]
    rows += [(scored(Role.PROPOSER, other, 1.0), None) for other in TASKS if other != task]
    played = Round(tuple(rows), (new,), {known: 0.25, new: 0.75}, (), 0, ())
    metrics = proposal_metrics(played, 5, 13)
    own = {key.split("/")[0]: value for key, value in metrics.items() if key.endswith(task)}
    guess = (1 / 4 + 1 / 4) / 2 if task is TaskType.INDUCTION else (1 / 6 + 1 / 10) / 2
    # Induction: 2 * 4 - 1 = 7 and 3 * 4 - 1 = 11 each fit one of the four primes to 13.
    assert own == {
        "valid_frac": 0.75, "novel_frac": 0.25, "distinct_frac": 0.5, "proposed_prime_mean": 25 / 3,
        "solve_rate": 0.5, "guess_rate": pytest.approx(guess),
    }  # fmt: skip
    for other in TASKS:
        if other != task:
            assert metrics[f"valid_frac/{other}"] == 0 and math.isnan(
                metrics[f"solve_rate/{other}"]
            )
