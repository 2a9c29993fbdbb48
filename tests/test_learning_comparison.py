"""`tests/benchmarks/learning.py`. Oracles: areas, means and the best setting by hand; for the curve of this
program, which needs no TRL, what the steps draw and count."""

import json
import sys

import pytest

from constants import ROOT

sys.path.append(str(ROOT / "tests" / "benchmarks"))

import learning
from learning import (
    KEY,
    Setting,
    area,
    best_settings,
    grid,
    main,
    of_best_settings,
    one_run,
    summary,
)

LOW, HIGH = {"lr": 1e-3, "updates": 1, "other": {}}, {"lr": 2e-3, "updates": 4, "other": {}}


def run(trainer: str, seed: int, setting: dict, *accuracies: float) -> dict:
    curve = [
        {"step": 10 * i, "completions": 100 * i, "tokens": 400 * i, "seconds": 2.0 * i, KEY: one}
        for i, one in enumerate(accuracies)
    ]
    return {"trainer": trainer, "seed": seed, "setting": setting, "curve": curve}


def test_an_area_is_a_mean_of_trapezoids():
    assert area(run("ours", 0, LOW, 0.0, 0.5, 0.5)["curve"]) == pytest.approx((0.25 + 0.5) / 2)


def test_the_best_setting_has_the_best_mean_and_not_the_best_run():
    runs = []
    for trainer in learning.TRAINERS:
        runs += [run(trainer, 100, LOW, 0.4, 0.4), run(trainer, 101, LOW, 0.4, 0.4)]
        runs += [run(trainer, 100, HIGH, 0.7, 0.7), run(trainer, 101, HIGH, 0.0, 0.0)]
    assert best_settings(runs) == dict.fromkeys(learning.TRAINERS, Setting(**LOW))
    assert of_best_settings(runs) == [one for one in runs if one["setting"] == LOW]


def test_every_trainer_has_the_same_number_of_settings():
    assert [len(grid(trainer)) for trainer in learning.TRAINERS] == [32] * 4


def test_a_line_has_the_mean_the_least_and_the_most():
    said = summary([run("ours", 0, LOW, 0.0, 0.5), run("ours", 1, LOW, 0.0, 0.25)])
    assert (
        "0.375 (0.25 to 0.5)" in said
        and "0.188 (0.125 to 0.25)" in said
        and "TRL" not in said
        and "this program" in said
    )


@pytest.mark.parametrize("content", ["", "{}\n", '{"trainer": "mine"}\n', "no JSON", "[1]\n"])
@pytest.mark.parametrize("name", ["runs.jsonl", "runs.jsonl.gz"])
def test_a_file_without_runs_is_one_sentence(content, name, tmp_path, capsys):
    (tmp_path / name).write_text(content)
    assert main(["--from", str(tmp_path / name)]) == 2
    said = capsys.readouterr().err
    assert said.startswith(f"--from {tmp_path / name}: must hold runs of this comparison (")
    assert len(said.splitlines()) == 1


@pytest.mark.parametrize("jobs", ["0", "-1", "two"])
def test_a_number_of_runs_at_once_that_is_none_is_refused(jobs, capsys):
    assert main(["--jobs", jobs]) == 2
    assert capsys.readouterr().err.startswith(f"--jobs {jobs}: must be ")


def test_a_run_counts_its_completions_and_its_tokens_and_ends_where_it_ends_again():
    setting = Setting(lr=1.25e-3, updates=4, other=dict(entropy_coef=0.1))
    first, again = (one_run("ours", 100, setting, steps=10) for _ in range(2))
    assert [row["completions"] for row in first] == [0, 7680]
    assert 0 < first[1]["tokens"] <= 7680 * 8 and first[1]["seconds"] > 0
    assert [row[KEY] for row in first] == [row[KEY] for row in again]


def test_with_advantage_grpo_the_same_answers_are_compared_otherwise():
    """The first step's answers are those of the same policy; what is learned from them is not."""
    setting = Setting(lr=1.25e-3, updates=4, other=dict(entropy_coef=0.1))
    cells, groups = (one_run(name, 100, setting, steps=10) for name in ("ours", "ours_grpo"))
    assert cells[0][KEY] == groups[0][KEY] and cells[1]["tokens"] != groups[1]["tokens"]


def test_an_interrupted_comparison_goes_on(tmp_path, monkeypatch, capsys):
    """A mock of the runs counts them; the best settings and TRL are stood in for."""
    made = []

    def one(asked):
        made.append(asked)
        asked = json.loads(asked)
        return run(asked["trainer"], asked["seed"], asked["setting"], 0.0, 0.5)

    monkeypatch.setattr(learning, "in_a_process", one)
    monkeypatch.setattr(learning, "find_spec", lambda name: name)
    tuned, output = tmp_path / "tuned.jsonl", tmp_path / "runs.jsonl"
    tuned.write_text(
        "".join(json.dumps(run(name, 100, LOW, 0.4, 0.4)) + "\n" for name in learning.TRAINERS)
    )
    argv = ["--tuned", str(tuned), "--output", str(output), "--jobs", "2"]
    assert main(argv) == 0 and len(made) == len(set(made)) == 20
    whole = output.read_text()
    output.write_text("".join(whole.splitlines(keepends=True)[:4]))
    made.clear()
    assert main(argv) == 0 and len(made) == 16 and output.read_text() == whole
    said = capsys.readouterr().out
    assert said.count("this program |") == 2

    output.write_text("somebody's\n")
    assert main(argv) == 2 and output.read_text() == "somebody's\n"
    assert capsys.readouterr().err.startswith(f"--output {output}: must not exist, unless")
