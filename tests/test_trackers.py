"""wandb itself, where it cannot do what it wants. Oracles: `metrics.jsonl`, the exit status, and what
wandb's own reader finds in an offline run."""

import json
import os
import struct
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
from helpers.run_contents import SMALL, contents
from test_cli import rows

from constants import ROOT
from custom_types import TASKS
from model.recording.wandb_follower import panels

RUN = [
    *SMALL,
    "--total-steps",
    "4",
    "--checkpoint-every",
    "2",
    "--eval-every",
    "2",
    "--run-dir",
    "run",
]
KEY = "a" * 40


def started(cwd: Path, *argv: str, **environment: str) -> subprocess.Popen:
    """train.py in an environment without the caller's wandb settings."""
    kept = {name: value for name, value in os.environ.items() if not name.startswith("WANDB_")}
    home = cwd / "home"  # where no key lies
    home.mkdir(exist_ok=True)
    return subprocess.Popen(
        [sys.executable, str(ROOT / "model" / "train.py"), *argv], cwd=cwd, text=True,
        env={**kept, "HOME": str(home), "NETRC": str(home / "netrc"), **environment},
        stdout=subprocess.PIPE, stderr=subprocess.PIPE,
    )  # fmt: skip


def ended(process: subprocess.Popen) -> subprocess.CompletedProcess:
    """Its result; its end may wait for wandb."""
    said = process.communicate()
    return subprocess.CompletedProcess(process.args, process.returncode, *said)


def trained(cwd: Path, *argv: str, **environment: str) -> subprocess.CompletedProcess:
    return ended(started(cwd, *argv, **environment))


@pytest.fixture(scope="module")
def untracked(tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("runs")
    assert trained(folder, *RUN).returncode == 0
    return folder / "run"


def records(content: bytes) -> Iterator[bytes]:
    """Of a LevelDB log behind wandb's seven bytes: blocks of 32768, each record with 4 bytes of checksum,
    2 of length and 1 that says whether it is whole (1) or a first (2), middle (3) or last (4) part."""
    at, parts = 7, b""
    while at + 7 <= len(content):
        left = 32768 - at % 32768
        if left < 7:
            at += left
            continue
        _, length, kind = struct.unpack("<IHB", content[at : at + 7])
        parts += content[at + 7 : at + 7 + length]
        at += 7 + length
        if kind in (1, 4):
            yield parts
            parts = b""


def offline_history(run_dir: Path) -> dict[str, list[dict]]:
    """What the offline runs below a folder hold: rows by wandb run id."""
    from wandb.proto import wandb_internal_pb2

    found: dict[str, list[dict]] = {}
    for file in sorted(run_dir.glob("wandb/offline-run-*/*.wandb")):
        for data in records(file.read_bytes()):
            record = wandb_internal_pb2.Record()
            record.ParseFromString(data)
            if record.WhichOneof("record_type") == "history":
                items = record.history.item
                row = {i.key or "/".join(i.nested_key): json.loads(i.value_json) for i in items}
                found.setdefault(file.stem.removeprefix("run-"), []).append(row)
    return found


def assert_untouched(run_dir: Path, untracked: Path) -> None:
    """The run is the run without wandb."""
    ours, theirs = contents(run_dir), contents(untracked)
    for found in (ours, theirs):
        del found["children"]
        for name in [name for name in found if name.endswith("trainer.json")]:
            del found[name]["recorder"]["tracker"], found[name]["args"]["wandb"]
    assert ours == theirs


@pytest.mark.slow
def test_offline_without_a_key_and_resumed_as_the_same_run(untracked, tmp_path):
    first = trained(tmp_path, *RUN, "--total-steps", "2", "--wandb")
    assert (first.returncode, first.stderr) == (0, "")
    second = trained(tmp_path, "--resume", "--run-dir", "run", "--total-steps", "4")
    assert (second.returncode, second.stderr) == (0, "")
    assert_untouched(tmp_path / "run", untracked)
    ((_, history),) = offline_history(tmp_path / "run").items()  # one id
    assert [row["_step"] for row in history] == [0, 1, 2, 3, 4]
    for row, metrics in zip(history, rows(tmp_path / "run" / "metrics.jsonl"), strict=True):
        logged = {key: value for key, value in row.items() if not key.startswith("_")}
        assert logged == pytest.approx(panels(metrics))


def test_the_four_first_panels_are_in_one_section():
    metrics = {"eval/accuracy": 0.5, "loss": 0.1, "grad_norm": None, "step": 3}
    metrics |= {f"reward/proposer_{task}": number for number, task in enumerate(TASKS)}
    shown = panels(metrics)
    first = {key: value for key, value in shown.items() if key.startswith(min(shown).split("/")[0])}
    assert first == {
        "0_overview/accuracy": 0.5,
        **{f"0_overview/proposer_{task}": number for number, task in enumerate(TASKS)},
    }
    assert shown["train/loss"] == 0.1 and "train/grad_norm" not in shown
    assert set(shown) - set(first) == {
        "eval/accuracy", "train/loss", "train/step", *(f"reward/proposer_{task}" for task in TASKS),
    }  # fmt: skip


@pytest.mark.slow
def test_whatever_wandb_meets_the_run_is_the_same(untracked, tmp_path):
    """No network, a broken key, an unknown mode: at the same time, since each waits."""
    runs = {}
    for name, environment in {
        "no network": {
            "WANDB_API_KEY": KEY,
            "WANDB_BASE_URL": "http://127.0.0.1:9",
        },  # nobody listens
        "broken key": {"WANDB_API_KEY": "broken key"},
        "unknown mode": {"WANDB_MODE": "nonsense"},
    }.items():
        (tmp_path / name).mkdir()
        runs[name] = started(tmp_path / name, *RUN, "--wandb", **environment)
    for name, process in runs.items():
        result = ended(process)
        assert result.returncode == 0, (name, result.stderr)
        assert "metrics.jsonl is complete" in result.stderr, name
        assert_untouched(tmp_path / name / "run", untracked)


STAND_IN = '''
"""In the place of wandb: starting a run does not come back before somebody reads from a pipe, which then
gets what is logged."""

import json
import os


def login(**settings):
    return True


def Settings(**settings):
    return settings


def init(**settings):
    return Run(open(os.environ["PIPE"], "w"))


class Run:
    def __init__(self, pipe):
        self.pipe = pipe

    def log(self, values, step):
        print(json.dumps(values | {"_step": step}), file=self.pipe)

    def finish(self):
        self.pipe.close()
'''


@pytest.mark.slow
def test_a_tracker_that_waits_for_ever_delays_nothing(untracked, tmp_path):
    """By order of events: the run has done every step and ended, and the tracker is still at its start,
    which it leaves only when this test reads. Then it logs every row. A stand-in, because no server can
    be had that surely never answers."""
    (tmp_path / "stand_in").mkdir()
    (tmp_path / "stand_in" / "wandb.py").write_text(STAND_IN)
    os.mkfifo(tmp_path / "pipe")
    places = dict(PIPE=str(tmp_path / "pipe"), PYTHONPATH=str(tmp_path / "stand_in"))
    result = trained(tmp_path, *RUN, "--wandb", **places)
    assert result.returncode == 0, result.stderr
    assert "wandb is still busy" in result.stderr and "metrics.jsonl is complete" in result.stderr
    assert_untouched(tmp_path / "run", untracked)
    with open(tmp_path / "pipe") as pipe:
        history = [json.loads(line) for line in pipe]
    assert [row.pop("_step") for row in history] == [0, 1, 2, 3, 4]
    for row, metrics in zip(history, rows(tmp_path / "run" / "metrics.jsonl"), strict=True):
        assert {key: row[key] for key in panels(metrics)} == panels(metrics)


@pytest.mark.slow
@pytest.mark.skipif(os.geteuid() == 0, reason="root may write everywhere")
def test_a_folder_that_cannot_be_written(untracked, tmp_path):
    (tmp_path / "locked").mkdir(mode=0o500)
    result = trained(tmp_path, *RUN, "--wandb", WANDB_DIR=str(tmp_path / "locked"))
    assert result.returncode == 0
    assert_untouched(tmp_path / "run", untracked)


@pytest.mark.slow
def test_a_folder_that_is_a_file(untracked, tmp_path):
    """For root too."""
    (tmp_path / "file").write_text("")
    result = trained(tmp_path, *RUN, "--wandb", WANDB_DIR=str(tmp_path / "file"))
    assert result.returncode == 0
    assert_untouched(tmp_path / "run", untracked)
