"""What a run says. Oracles: its own log, and the files it names."""

import json
import re
from pathlib import Path

import pytest
from helpers.run_contents import SMALL, done_here

from custom_types import ROLES, TASKS
from model.args import AZRArgs
from model.recording.console import HEADER_EVERY, Console, _duration


@pytest.fixture(scope="module")
def said(tmp_path_factory) -> tuple[Path, list[str]]:
    """A short run and its lines."""
    folder = tmp_path_factory.mktemp("console") / "run"
    result = done_here(*SMALL, "--total-steps", "6", "--run-dir", str(folder))
    return folder, result.stdout.splitlines()


@pytest.mark.slow
def test_a_line_a_step_with_what_the_log_has(said):
    folder, lines = said
    rows = [json.loads(line) for line in (folder / "metrics.jsonl").read_text().splitlines()]
    start = next(
        index for index, line in enumerate(lines) if line.split()[:2] == ["step", "accuracy"]
    )
    accuracy = None
    for row, line in zip(rows, lines[start + 1 :], strict=False):
        accuracy = row.get("eval/accuracy", accuracy)
        values = [f"{row['step']}", f"{accuracy:.2f}"]
        if row["step"]:
            values += [f"{row[f'valid_frac/{task}']:.2f}" for task in TASKS]
            for role in ROLES:
                values.append(f"{sum(row[f'reward/{role}_{task}'] for task in TASKS) / 3:.2f}")
            values += [f"{row[f'entropy/{role}']:.2f}" for role in ROLES]
            values.append(f"{row['perf/tokens_per_second']:,.0f}")
            assert re.fullmatch(r"\d+:\d\d", line.split()[-1])
            line = line.rsplit(maxsplit=1)[0]
        assert line.split() == values
    assert line.split()[0] == "6"


def test_the_end_says_what_was_reached_and_where_things_are(said):
    folder, lines = said
    rows = [json.loads(line) for line in (folder / "metrics.jsonl").read_text().splitlines()]
    evaluated = [row for row in rows if "eval/accuracy" in row]
    for name, key in (*((str(task), f"_{task}") for task in TASKS), ("mean", "")):
        (line,) = [line for line in lines if line.startswith(f"{name} ")]
        values = [row[f"eval/accuracy{key}"] for row in evaluated]
        best = max(values)
        step = evaluated[values.index(best)]["step"]
        assert line.split()[1:] == [
            f"{values[0]:.2f}", f"{best:.2f}", str(step), f"{values[-1]:.2f}"
        ]  # fmt: skip
    assert lines[-1] == f"report {folder / 'report.html'}" and (folder / "report.html").is_file()
    text = "\n".join(lines)
    assert f"baselines.py --model {folder}" in text
    assert f"--resume --run-dir {folder} --total-steps 12" in text


def test_the_header_comes_again_and_quiet_says_nothing(capsys):
    row = {"step": 0, "eval/accuracy": 0.5}
    for quiet, expected in ((False, 2), (True, 0)):
        console = Console(AZRArgs(quiet=quiet), Path("run"))
        for _ in range(HEADER_EVERY + 1):
            console.step(row)
        assert capsys.readouterr().out.count("accuracy") == expected


def test_a_cell_without_rollouts_is_a_dash(capsys):
    """The proposer's, where the environment draws the problems."""
    console = Console(AZRArgs(), Path("run"))
    console.step({"step": 0, "eval/accuracy": 0.5})
    row = {f"valid_frac/{task}": float("nan") for task in TASKS}
    row |= {f"reward/{role}_{task}": float("nan") for role in ROLES for task in TASKS}
    row |= {f"entropy/{role}": float("nan") for role in ROLES}
    console.step({"step": 1, "perf/tokens_per_second": 1234.5, **row})
    assert capsys.readouterr().out.splitlines()[-1].split()[:10] == [
        "1", "0.50", *"-------", "1,234"
    ]  # fmt: skip


def test_time_left_is_read_like_a_clock():
    assert [_duration(s) for s in (0, 59.6, 3599, 3661)] == ["0:00", "1:00", "59:59", "1:01:01"]
