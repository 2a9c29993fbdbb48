"""Curves of several runs at one step. Oracles: numbers by hand, and what the pictures hold."""

import json

import matplotlib.pyplot as plt
import numpy as np
import pytest

from custom_types import TASKS
from model.report.curves import on_common_steps
from model.report.data import curves
from model.report.pictures import draw


def test_common_steps_by_hand():
    steps, values = on_common_steps([([0, 10, 20, 30], [1, 2, 3, 4]), ([0, 20, 40], [5, 7, 9])])
    assert steps.tolist() == [0, 20] and values.tolist() == [[1, 3], [5, 7]]


@pytest.mark.parametrize("seed", range(5))
def test_common_steps_are_those_of_every_run(seed):
    """Each run's value at a step is step + 1000 times its number, so that a row's place cannot pass for
    a step; steps are in any order. Against sets."""
    rng = np.random.default_rng(seed)
    runs = [rng.permutation(30)[: rng.integers(10, 30)] for _ in range(4)]
    steps, values = on_common_steps([(own, own + 1000 * n) for n, own in enumerate(runs)])
    assert steps.tolist() == sorted(set.intersection(*(set(own.tolist()) for own in runs)))
    assert (values == steps + 1000 * np.arange(4)[:, None]).all()


def test_runs_without_a_common_step():
    steps, values = on_common_steps([([0, 2], [1, 1]), ([1, 3], [1, 1])])
    assert steps.shape == (0,) and values.shape == (2, 0)
    steps, values = on_common_steps([([3, 1], [6, 2])])
    assert steps.tolist() == [1, 3] and values.tolist() == [[2, 6]]


# ---------------------------------------------------------------- what is drawn


def rows(every: int, last: int, value) -> list[dict]:
    return [
        {"step": step, **({"a": value(step)} if step % every == 0 else {})}
        for step in range(last + 1)
    ]


def drawn(runs: list[list[dict]]):
    """Lines, thin ones first, as (steps, values), and the ends of the band by step."""
    figure, axes = plt.subplots()
    draw(axes, runs, "a", "#000000", "a")
    lines = [(line.get_xdata().tolist(), line.get_ydata().tolist()) for line in axes.get_lines()]
    band: dict[float, set] = {}
    for collection in axes.collections:
        for path in collection.get_paths():
            for x, y in path.vertices:
                band.setdefault(x, set()).add(y)
    plt.close(figure)
    return lines, band


def test_evaluations_every_10_and_every_20_steps_meet_at_their_steps():
    """Accuracy is step / 100 in both runs: so is their mean, and the band has no width."""
    runs = [rows(10, 40, lambda s: s / 100), rows(20, 60, lambda s: s / 100)]
    (one, other, mean), band = drawn(runs)
    assert one == ([0, 10, 20, 30, 40], [0, 0.1, 0.2, 0.3, 0.4])
    assert other == ([0, 20, 40, 60], [0, 0.2, 0.4, 0.6])
    assert mean == ([0, 20, 40], [0, 0.2, 0.4])
    assert band == {0: {0}, 20: {0.2}, 40: {0.4}}


def test_a_mean_is_of_all_runs_or_not_there():
    runs = [rows(1, 2, lambda s: 1.0), rows(1, 2, lambda s: 3.0), rows(1, 2, lambda s: 8.0)]
    runs[2][1]["a"] = None
    lines, band = drawn(runs)
    assert lines[-1][0] == [0, 1, 2]
    assert np.array_equal(lines[-1][1], [4, np.nan, 4], equal_nan=True)
    assert 1 not in band and band[0] == band[2] == {1, 8}


def test_a_run_that_never_has_a_value_leaves_no_mean():
    lines, _ = drawn([rows(1, 2, lambda s: 1.0), rows(1, 2, lambda s: None)])
    assert lines == [([0, 1, 2], [1, 1, 1]), ([], [])]
    assert drawn([rows(1, 2, lambda s: None)] * 2) == ([], {})


def test_one_run_is_its_own_line():
    lines, band = drawn([rows(2, 4, lambda s: float(s))])
    assert lines == [([0, 2, 4], [0, 2, 4])] and band == {}


def test_the_report_has_no_mean_over_other_runs_at_each_step():
    """Of a run that is at step 3 and one that is at step 1, whose values are far apart."""
    short = [{"step": 0, "a": 0.0}, {"step": 1, "a": 0.0, "b": 2.0}]
    long = [{"step": step, "a": 1.0, "b": None if step == 1 else 1.0} for step in range(4)]
    assert curves("g", [short, long], ["a", "b"]) == [
        {"group": "g", "step": 0, "a": 0.5, "a low": 0.0, "a high": 1.0},
        {"group": "g", "step": 1, "a": 0.5, "a low": 0.0, "a high": 1.0},
    ]
    assert [row["step"] for row in curves("g", [long], ["a"])] == [0, 1, 2, 3]


@pytest.mark.slow
def test_pictures_of_runs_of_other_lengths(half, tmp_path):
    """A real run beside itself with an evaluation in two left out."""
    from model.report.pictures import save_plots

    other = tmp_path / "other"
    other.mkdir()
    for name in ("config.json", "problems.jsonl"):
        (other / name).write_bytes((half / name).read_bytes())
    logged = [json.loads(line) for line in (half / "metrics.jsonl").read_text().splitlines()]
    for row in logged:
        if row["step"] % 10:
            for key in ["eval/accuracy", *(f"eval/accuracy_{task}" for task in TASKS)]:
                row.pop(key, None)
    text = "".join(json.dumps(row) + "\n" for row in logged[:16])
    (other / "metrics.jsonl").write_text(text)
    assert len(save_plots([half, other], tmp_path / "pictures")) == 8
