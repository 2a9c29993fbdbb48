"""Curves of several runs at one step. Oracles: numbers by hand, and what Vega draws."""

import json

import numpy as np
import pytest
import vl_convert

from custom_types import TASKS
from model.report.charts import Panel, curve_chart
from model.report.curves import curves
from model.report.pictures import save_plots, sized

WIDTH, HEIGHT = 300, 200


def test_common_steps_by_hand():
    logs = [
        [{"step": step, "a": value} for step, value in points]
        for points in ([(0, 1), (10, 2), (20, 3), (30, 4)], [(0, 5), (20, 7), (40, 9)])
    ]
    assert curves("g", logs, ["a"]) == [
        {"group": "g", "step": 0, "a": 3, "a low": 1, "a high": 5},
        {"group": "g", "step": 20, "a": 5, "a low": 3, "a high": 7},
    ]


@pytest.mark.parametrize("seed", range(5))
def test_common_steps_are_those_of_every_run(seed):
    """Each run's value at a step is step + 1000 times its number, so that a row's place cannot pass for
    a step; steps are in any order. Against sets."""
    rng = np.random.default_rng(seed)
    runs = [rng.permutation(30)[: rng.integers(10, 30)].tolist() for _ in range(4)]
    logs = [[{"step": s, "a": s + 1000 * n} for s in steps] for n, steps in enumerate(runs)]
    rows = curves("g", logs, ["a"])
    assert [row["step"] for row in rows] == sorted(set.intersection(*map(set, runs)))
    for row in rows:
        assert (row["a low"], row["a high"]) == (row["step"], row["step"] + 3000)
        assert row["a"] == row["step"] + 1500


def test_runs_without_a_common_step():
    logs = [[{"step": step, "a": 1} for step in steps] for steps in ([0, 2], [1, 3])]
    assert curves("g", logs, ["a"]) == []
    one = [[{"step": 3, "a": 6}, {"step": 1, "a": 2}]]
    assert [(row["step"], row["a"]) for row in curves("g", one, ["a"])] == [(1, 2), (3, 6)]


# ---------------------------------------------------------------- what is drawn


def rows(every: int, last: int, value) -> list[dict]:
    return [
        {"step": step, **({"a": value(step)} if step % every == 0 else {})}
        for step in range(last + 1)
    ]


def marks(item: dict, kind: str) -> list[dict]:
    """The points of every mark of a kind, in a scene graph of Vega's."""
    if item.get("marktype") == kind:
        return item["items"]
    return [point for child in item.get("items", []) for point in marks(child, kind)]


def drawn(runs: list[list[dict]], last: int, span: tuple[float, float]):
    """Of lines and of the band what Vega draws over the steps 0..last: (step, value) of each point of
    the mean, None where the line breaks, and of each step the ends of the band."""
    panel, data = Panel("a", {"a": "a"}, "a", span), curves("runs", runs, ["a"])
    chart = sized(curve_chart(panel, "curves", data), WIDTH, HEIGHT)
    for layer in chart["layer"]:
        layer["encoding"]["x"]["scale"] = {"domain": [0, last], "nice": False}
    scene = vl_convert.vegalite_to_scenegraph({**chart, "datasets": {"curves": data}})["scenegraph"]

    def value(pixels: float) -> float:
        return round(span[0] + (1 - pixels / HEIGHT) * (span[1] - span[0]), 6)

    def step(point: dict) -> float:
        return round(point.get("x", 0) / WIDTH * last, 6)

    def is_there(point: dict) -> bool:
        return point.get("defined", True)

    line = [
        (step(point), value(point.get("y", 0)) if is_there(point) else None)
        for point in marks(scene, "line")
    ]
    band = {
        step(point): {value(point.get("y", 0)), value(point.get("y", 0) + point.get("height", 0))}
        for point in marks(scene, "area")
        if is_there(point)
    }
    return line, band


def test_evaluations_every_10_and_every_20_steps_meet_at_their_steps():
    """Accuracy is step / 100 in both runs: so is their mean, and the band has no width."""
    runs = [rows(10, 40, lambda s: s / 100), rows(20, 60, lambda s: s / 100)]
    mean, band = drawn(runs, 60, (0, 1))
    assert mean == [(0, 0), (20, 0.2), (40, 0.4)]
    assert band == {0: {0}, 20: {0.2}, 40: {0.4}}


def test_a_mean_is_of_all_runs_or_not_there():
    runs = [rows(1, 2, lambda s: 1.0), rows(1, 2, lambda s: 3.0), rows(1, 2, lambda s: 8.0)]
    runs[2][1]["a"] = None
    mean, band = drawn(runs, 2, (0, 10))
    assert mean == [(0, 4), (1, None), (2, 4)]
    assert 1 not in band and band[0] == band[2] == {1, 8}


def test_a_run_that_never_has_a_value_leaves_no_mean():
    assert drawn([rows(1, 2, lambda s: 1.0), rows(1, 2, lambda s: None)], 2, (0, 1)) == ([], {})
    assert drawn([rows(1, 2, lambda s: None)] * 2, 2, (0, 1)) == ([], {})


def test_one_run_is_its_own_line():
    mean, band = drawn([rows(2, 4, lambda s: float(s))], 4, (0, 4))
    assert mean == [(0, 0), (2, 2), (4, 4)] and band == {}


def test_the_report_has_no_mean_over_other_runs_at_each_step():
    """Of a run that is at step 3 and one that is at step 1, whose values are far apart."""
    short = [{"step": 0, "a": 0.0}, {"step": 1, "a": 0.0, "b": 2.0}]
    long = [{"step": step, "a": 1.0, "b": None if step == 1 else 1.0} for step in range(4)]
    assert curves("g", [short, long], ["a", "b"]) == [
        {"group": "g", "step": 0, "a": 0.5, "a low": 0.0, "a high": 1.0},
        {"group": "g", "step": 1, "a": 0.5, "a low": 0.0, "a high": 1.0, "b": None},
    ]
    assert [row["step"] for row in curves("g", [long], ["a"])] == [0, 1, 2, 3]


@pytest.mark.slow
def test_pictures_of_runs_of_other_lengths(half, tmp_path):
    """A real run beside itself with an evaluation in two left out."""
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
