"""What is read from a run's logs: the tables' figures. Oracle: logs made by hand."""

import json

import pytest

from custom_types import TASKS
from model.eval.summary import (
    certainty_rows,
    generalisation_rows,
    least_distinct,
    mean_reward,
    proposer_row,
    results_row,
)
from model.run.finished import FinishedRun

STEPS = 60


@pytest.fixture
def run(tmp_path):
    """60 steps, primes 5 to 7 (10 problems of abduction). Accuracy 0.1 a ten steps up to step 40,
    then 0.3 less. From step 31 to 50 the abduction proposer earns 0.5, before and after that 0.
    It proposes one problem up to step 30 and another after that."""
    config = {"args": {"seed": 3, "min_prime": 5, "max_prime": 7, "n_attempts": 8}}
    config["args"]["eval_problems"] = 512
    (tmp_path / "config.json").write_text(json.dumps(config))
    metrics, problems = [], []
    for step in range(STEPS + 1):
        row = {"step": step}
        if step % 10 == 0:
            accuracy = step / 100 if step <= 40 else 0.1
            row |= {f"eval/accuracy_{task}": accuracy for task in TASKS}
            row |= {f"eval/uniform_reward_{task}": step / 100 for task in TASKS}
            row |= {"eval/accuracy": accuracy, "time/eval": 1.0}
        if step:
            row |= {f"valid_frac/{task}": 0.25 if step == 1 else 1.0 for task in TASKS}
            row |= {f"malformed_frac/solver_{task}": 0.03 * (step > 58) for task in TASKS}
            row |= {f"reward/proposer_{task}": 0.5 * (30 < step <= 50) for task in TASKS}
            row |= {"step_time": 0.5, "perf/completions_per_second": 100.0}
            problem = [2, 3, 5, 4, 0.5] if step <= 30 else [3, 2, 5, 4, 0.5]
            problems.append({"step": step} | {str(task): [problem] for task in TASKS})
        metrics.append(row)
    for name, lines in (("metrics", metrics), ("problems", problems)):
        text = "".join(json.dumps(line) + "\n" for line in lines)
        (tmp_path / f"{name}.jsonl").write_text(text)
    return tmp_path


def test_the_tables_by_hand(run):
    results, proposers = results_row(FinishedRun(run)), proposer_row(FinishedRun(run))
    # Means of three evaluations: .1 .2 .3 .267 .2; the peak 0.3 is at step 40, the last 0.2.
    assert results["accuracy after"] == "0.20 0.20 0.20" and results["below its peak"] == "0.10"
    assert results["seconds"] == "36"  # 60 steps of 0.5 s and 6 evaluations of 1 s
    assert proposers["valid at step 1"] == "0.25 0.25 0.25"
    # 0.5 in 20 of 60 steps; uniform drawing: step / 100 interpolated over steps 1..60, mean 0.305.
    assert proposers["mean reward"] == "0.17 0.17 0.17"
    assert mean_reward(FinishedRun(run), TASKS[0]) == pytest.approx((1 / 6, 0.305))
    # One distinct problem in 25 steps of 10 problems, 9 of them unsolved at an accuracy of 0.1 (the
    # evaluation of step 60): 1 / 9; the windows that hold two problems have 2 / 7 or 2 / 6.
    assert least_distinct(FinishedRun(run), TASKS[0]) == pytest.approx(1 / 9)


def test_the_intervals_by_hand(run):
    """0 and 1 of 10 right: 1.96^2 / (10 + 1.96^2) = 0.28 above 0; and for 0.1, (0.02, 0.40). The same
    answer fits 2 of 10 problems. Malformed 0.03 in two of the last six steps."""
    abduction, *_, whole = certainty_rows(FinishedRun(run))
    assert abduction["task"] == "abduction" and abduction["problems"] == "10"
    assert abduction["first evaluation"] == "0.00 (0.00 to 0.28)"
    assert abduction["last evaluation"] == "0.10 (0.02 to 0.40)"
    assert abduction["best constant"] == "0.20"
    # Of y = 1, 2, 3, 4 modulo 5 and 1..6 modulo 7 the inverses 1, 3, 2, 4 and 1, 4, 5, 2, 3, 6: each of
    # the six y answered by one of its inverses, y = 1 right twice: 7 of 10.
    assert abduction["best without p"] == "0.70" and whole["best without p"] == "-"
    assert (abduction["malformed answers"], abduction["valid proposals"]) == ("0.010", "1.000")
    assert whole["task"] == "all" and whole["problems"] == "28"  # 10 + 10 + 8


def test_what_generalises_by_hand(run):
    """Two evaluations of a run with primes to 13 that holds problems out; the last one counts. Abduction
    asks x, deduction y; of induction 7 is the second prime and 13 the fourth."""
    config = json.loads((run / "config.json").read_text())
    config["args"] |= {"held_out": 0.25, "max_prime": 13}
    (run / "config.json").write_text(json.dumps(config))
    asked = [[2, 4, 7, 1], [6, 11, 13, 0], [11, 6, 13, 1]]
    rows = [
        {"step": step}
        | {str(task): [[*item[:3], item[3] * last] for item in asked] for task in TASKS}
        for step, last in ((0, 0), (60, 1))
    ]
    (run / "evaluations.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    by_band, by_length = generalisation_rows([FinishedRun(run), FinishedRun(run)])
    all_tasks = dict.fromkeys(map(str, TASKS))
    assert by_band == [
        {"primes": "5-7"} | dict.fromkeys(all_tasks, "1.00 of 2"),
        {"primes": "11-13"} | dict.fromkeys(all_tasks, "0.50 of 4"),
    ]
    assert by_length == [
        {"candidates up to the answer": "1-5"}
        | {"abduction": "1.00 of 2", "deduction": "1.00 of 2", "induction": "0.67 of 6"},
        {"candidates up to the answer": "6-10"}
        | {"abduction": "0.00 of 2", "deduction": "1.00 of 2", "induction": "-"},
        {"candidates up to the answer": "11-20"}
        | {"abduction": "1.00 of 2", "deduction": "0.00 of 2", "induction": "-"},
    ]


def test_where_nothing_is_held_out_nothing_is_said_of_it(run):
    assert generalisation_rows([FinishedRun(run)]) == [[], []]
