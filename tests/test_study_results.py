"""A study's tables, where a column could be another's. Oracles: logs and tables by hand."""

import math

import pytest
from test_study import a_run, cells

from custom_types import TASKS
from model.eval.study_results import (
    StudyRun,
    arms_table,
    by_condition,
    contrasts_table,
    controls_table,
)

SIZES = {"batch_size": 4, "n_attempts": 2}


def rows_of(table: str, name: str) -> dict[str, str]:
    """A line of a table by the heads of its columns."""
    heads = [head.strip() for head in table.splitlines()[0].strip("|").split("|")]
    return dict(zip(heads, cells(table, name), strict=True))


def test_the_goal_is_met_by_exactly_the_goal():
    assert a_run([0.1, 0.9, 0.95]).reached[0] == 10


def test_a_means_last_steps_are_its_last():
    """20 steps after step 0, whose value counts for nothing; unknown ones count for nothing either."""
    rows = [{"step": 0, "loss": 100.0}]
    rows += [{"step": k, "loss": float(k), "seldom": None if k % 2 else 1.0} for k in range(1, 21)]
    run = StudyRun("self", 0, None, {}, rows)
    assert run.mean("loss") == pytest.approx(21 / 2)
    assert run.mean("loss", last=4) == pytest.approx((17 + 18 + 19 + 20) / 4)
    assert run.mean("seldom") == 1.0 and run.mean("unknown") is None


def test_the_final_accuracy_is_of_the_last_three_evaluations():
    run = a_run([0.0, 0.1, 0.5, 0.6, 1.0])
    assert run.final == pytest.approx((0.5 + 0.6 + 1.0) / 3)
    assert run.area == pytest.approx((0.05 + 0.3 + 0.55 + 0.8) / 4)


def test_the_area_is_by_steps_and_not_by_evaluations():
    """At steps 0, 10 and 40: 10 of mean 0.5 and 30 of mean 1."""
    rows = [
        {"step": step, "eval/accuracy": value} for step, value in ((0, 0.0), (10, 1.0), (40, 1.0))
    ]
    assert StudyRun("self", 0, None, SIZES, rows).area == pytest.approx((10 * 0.5 + 30 * 1.0) / 40)


def test_conditions_keep_their_runs_in_the_order_of_seeds():
    runs = [a_run([0.1, 0.2], name, seed) for name, seed in (("b", 2), ("a", 1), ("b", 0))]
    found = by_condition(runs)
    assert list(found) == ["b", "a"]
    assert [run.seed for run in found["b"]] == [0, 2] and len(found["a"]) == 1


def test_an_arms_columns_are_each_their_own():
    """Final accuracy 0.95 with an area of 0.7875; shares of answers that differ; the median of 240 and
    960 answers, and not of their steps."""
    runs = []
    for accuracies in ([0.1, 0.95, 0.95, 0.95, 0.95], [0.1, 0.1, 0.1, 0.1, 0.95]):
        run = a_run(accuracies)
        for row in run.metrics[1:]:
            row |= {"answer_frac/taught": 0.6, "answer_frac/refill": 0.3}
            row |= {"answer_frac/untrained": 0.1}
        runs.append(run)
    row = rows_of(arms_table({"a": runs}), "a")
    assert row["final accuracy"] == f"{(0.95 + (0.1 + 0.1 + 0.95) / 3) / 2:.3f}"
    assert row["answers taught"] == "0.60"
    assert row["answers refill"] == "0.30" and row["answers untrained"] == "0.10"
    assert row["median answers to it"] == "600" and row["reached 0.9"] == "2 of 2"
    # Areas by trapezoids of one width: (0.525 + 3 * 0.95) / 4 and (3 * 0.1 + 0.525) / 4.
    low, high = 0.825 / 4, 3.375 / 4
    assert row["area under the curve"] == f"{(low + high) / 2:.3f} ({low:.3f} to {high:.3f})"


def test_the_controls_columns_are_each_their_own():
    """30 steps to the goal, of 24 answers each; valid proposals are those of the last
    20 steps, where they are 0.9 and before that 0.1."""
    run = a_run([0.1, 0.1, 0.1, 0.95])
    for row in run.metrics[1:]:
        row |= {f"valid_frac/{task}": 0.9 if row["step"] > 10 else 0.1 for task in TASKS}
    row = rows_of(controls_table({"self": [run]}), "self")
    assert row["steps to it"] == "30" and row["answers to it"] == "720"
    assert row["valid proposals"] == "0.90"


def contrasted(ours: dict, theirs: dict, others: dict | None = None) -> str:
    """The table of a - b, and of c - b where there are others, of accuracies by seed."""
    arms = {"a": ours, "b": theirs} | ({"c": others} if others else {})
    runs = {
        name: [a_run(accuracies, name, seed) for seed, accuracies in own.items()]
        for name, own in arms.items()
    }
    return contrasts_table(runs, [(name, "b") for name in runs if name != "b"])


NEVER, SOON, LATE = [0.1, 0.2, 0.3], [0.1, 0.95, 0.95], [0.1, 0.5, 0.95]


def test_who_was_sooner_at_the_goal():
    """Sooner on seeds 0 and 1, where b was never there; later on seed 2; as soon on seed 3; neither on
    seed 4."""
    table = contrasted(
        {0: SOON, 1: LATE, 2: LATE, 3: SOON, 4: NEVER},
        {0: LATE, 1: NEVER, 2: SOON, 3: SOON, 4: NEVER},
    )
    row = rows_of(table, "a - b")
    assert row["sooner at 0.9"] == "2" and row["later"] == "1" and row["pairs"] == "5"


def test_only_seeds_of_both_are_paired():
    """Of seeds 0 to 3 and 2 to 5, two: each half an area apart, and b the better one."""
    high, low = [0.8, 0.8], [0.3, 0.3]
    table = contrasted({0: high, 1: high, 2: low, 3: low}, {2: high, 3: high, 4: low, 5: low})
    row = rows_of(table, "a - b")
    assert row["pairs"] == "2" and row["difference in area"] == "-0.500"


def test_the_difference_is_of_areas():
    """Of curves that end at the same accuracy."""
    early, late = [0.0, 1.0, 1.0, 1.0, 1.0, 1.0], [0.0, 0.0, 0.0, 1.0, 1.0, 1.0]
    row = rows_of(contrasted({0: early, 1: early}, {0: late, 1: late}), "a - b")
    assert row["difference in area"] == f"{(4.5 - 2.5) / 5:+.3f}"


def test_the_contrasts_share_one_error_rate():
    """On 6 seeds all differences have one sign, so p is 2 of 2^6 = 0.031 for each alone; of two
    contrasts the smallest counts twice, and none is below one before it: 0.0625 both."""

    def flat(level, spread):
        return {seed: [level + spread * seed, level + spread * seed] for seed in range(6)}

    table = contrasted(flat(0.3, 0.01), flat(0.1, 0.0), flat(0.5, 0.02))
    assert [rows_of(table, name)["p"] for name in ("a - b", "c - b")] == ["0.062", "0.062"]
    alone = contrasted(flat(0.3, 0.01), flat(0.1, 0.0))
    assert rows_of(alone, "a - b")["p"] == "0.031"
    assert math.isclose(2 / 2**6, 0.03125)
