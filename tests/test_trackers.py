"""The trackers themselves, where they can do what they want and where not. Oracles: `metrics.jsonl`, the exit
status, and what their own readers find."""

import json
import os
import sqlite3
import struct
import subprocess
import sys
import time
from collections.abc import Iterator, Mapping
from dataclasses import replace
from pathlib import Path

import pytest
from helpers.run_contents import SMALL, contents
from test_cli import rows

from constants import ROOT
from custom_types import TASKS
from model import train
from model.args import AZRArgs
from model.recording import trackers
from model.recording.follower import panels
from model.recording.sinks import PROJECT, SINKS
from model.run.directory import WRITTEN

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
    """train.py in an environment without the caller's settings of trackers."""
    chosen = ("WANDB_", "TRACKIO_")
    kept = {name: value for name, value in os.environ.items() if not name.startswith(chosen)}
    home = cwd / "home"  # where no key lies
    home.mkdir(exist_ok=True)
    return subprocess.Popen(
        [sys.executable, str(ROOT / "model" / "train.py"), *argv], cwd=cwd, text=True,
        env={**kept, "HOME": str(home), "NETRC": str(home / "netrc"), **environment},
        stdout=subprocess.PIPE, stderr=subprocess.PIPE,
    )  # fmt: skip


def ended(process: subprocess.Popen) -> subprocess.CompletedProcess:
    """Its result; its end may wait for trackers."""
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
    """The run is the run without trackers."""
    ours, theirs = contents(run_dir), contents(untracked)
    for found in (ours, theirs):
        del found["children"]
        for name in [name for name in found if name.endswith("trainer.json")]:
            del found[name]["recorder"]["trackers"]
            for tracker in trackers.TRACKERS:
                del found[name]["args"][tracker]
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


def untouched_by_all(
    tmp_path: Path, untracked, flag: str, environments: Mapping[str, Mapping[str, str]]
) -> list[str]:
    """Runs with a tracker in each environment, at the same time since each waits, that end as the one
    without it; what they said."""
    runs = {}
    for name, environment in environments.items():
        (tmp_path / name).mkdir()
        runs[name] = started(tmp_path / name, *RUN, flag, **environment)
    said = []
    for name, process in runs.items():
        result = ended(process)
        assert result.returncode == 0, (name, result.stderr)
        assert "metrics.jsonl is complete" in result.stderr, name
        assert_untouched(tmp_path / name / "run", untracked)
        said.append(result.stderr)
    return said


@pytest.mark.slow
def test_whatever_wandb_meets_the_run_is_the_same(untracked, tmp_path):
    """No network, a broken key, an unknown mode."""
    server = "http://127.0.0.1:9"  # nobody listens
    environments = {
        "no network": {"WANDB_API_KEY": KEY, "WANDB_BASE_URL": server},
        "broken key": {"WANDB_API_KEY": "broken key"},
        "unknown mode": {"WANDB_MODE": "nonsense"},
    }
    untouched_by_all(tmp_path, untracked, "--wandb", environments)


STAND_IN = '''
"""In the place of a tracker: starting a run does not come back before somebody reads from a pipe, which then
gets what is logged."""

import json
import os


def login(**settings):
    return True


def Settings(**settings):
    return settings


def init(**settings):
    return Run()


def finish():
    Run.last.finish()


class Run:
    def __init__(self):
        self.pipe = open(os.environ["PIPE_" + __name__.partition(".")[0]], "w")
        Run.last = self

    def log(self, values, step):
        print(json.dumps(values | {"_step": step}), file=self.pipe)

    def finish(self):
        self.pipe.close()


class EventFileWriter(Run):
    def __init__(self, folder, flush_secs):
        super().__init__()

    def add_event(self, event):
        if "summary" in event:
            self.log({one["tag"]: one["simple_value"] for one in event["summary"]["value"]}, event["step"])

    def close(self):
        self.finish()


class SessionLog(dict):
    START = 1


class Summary(dict):
    Value = dict


Event = dict
'''
STOOD_IN = (
    "wandb.py",
    "trackio.py",
    *(
        f"tensorboard/{module}.py"
        for module in (
            "__init__", "compat/proto/event_pb2", "compat/proto/summary_pb2", "summary/writer/event_file_writer"
        )
    ),
)  # fmt: skip


@pytest.mark.slow
def test_a_tracker_that_waits_for_ever_delays_nothing(untracked, tmp_path):
    """By order of events: the run has done every step and ended, and the tracker is still at its start,
    which it leaves only when this test reads. Then it logs every row. Stand-ins, because no server can
    be had that surely never answers; all three at once, since the end of a run waits for them."""
    for name in STOOD_IN:
        file = tmp_path / "stand_in" / name
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_text(STAND_IN)
    pipes = {name: tmp_path / f"pipe of {name}" for name in trackers.TRACKERS}
    for pipe in pipes.values():
        os.mkfifo(pipe)
    places = {f"PIPE_{name}": str(pipe) for name, pipe in pipes.items()}
    flags = [f"--{name}" for name in pipes]
    places["PYTHONPATH"] = str(tmp_path / "stand_in")
    process = started(tmp_path, *RUN, *flags, **places)
    while not (tmp_path / "run" / "report.html").exists():
        time.sleep(0.1)
    assert process.poll() is None  # it draws first, and waits then
    result = ended(process)
    assert result.returncode == 0, result.stderr
    assert len(result.stderr.splitlines()) == len(pipes)
    assert_untouched(tmp_path / "run", untracked)
    for name, pipe in pipes.items():
        assert f"{name} is still busy after 20 s and goes on in process " in result.stderr
        with open(pipe) as opened:
            history = [json.loads(line) for line in opened]
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


# ---------------------------------------------------------------- TensorBoard and trackio


def tensorboard_history(folder: Path) -> list[dict[str, float]]:
    """What TensorBoard shows of the event files in a folder, a row for each step."""
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    events = EventAccumulator(str(folder), size_guidance={"scalars": 0})
    events.Reload()
    found: dict[int, dict[str, float]] = {}
    for tag in events.Tags()["scalars"]:
        steps = [event.step for event in events.Scalars(tag)]
        assert steps == sorted(set(steps)), tag  # none twice
        for event in events.Scalars(tag):
            found.setdefault(event.step, {})[tag] = event.value
    return [found[step] for step in sorted(found)]


def trackio_history(folder: Path) -> dict[str, list[tuple[int, dict]]]:
    """What trackio's database holds, as it was logged, by run: steps and their rows."""
    found: dict[str, list[tuple[int, dict]]] = {}
    database = sqlite3.connect(folder / f"{PROJECT}.db")
    for name, step, row in database.execute(
        "select run_name, step, metrics from metrics order by id"
    ):
        found.setdefault(name, []).append((step, json.loads(row)))
    return found


@pytest.mark.slow
def test_tensorboard_and_trackio_continue_their_curves(tmp_path):
    """The run goes on from step 2, though it had come to step 3, first without its trackers, then with
    them and in another place. Of what they had one row is lost and one is another's: in the end they
    hold what the log holds."""
    pytest.importorskip("tensorboard", reason="pip install tensorboard")
    pytest.importorskip("trackio", reason="pip install trackio")
    place = dict(TRACKIO_DIR=str(tmp_path / "trackio"))
    on = ["--tensorboard", "--trackio"]
    first = trained(tmp_path, *RUN, "--total-steps", "3", *on, **place)
    assert (first.returncode, first.stderr) == (0, "")
    run, checkpoint = tmp_path / "run", "run/checkpoints/step_000002"
    with sqlite3.connect(tmp_path / "trackio" / f"{PROJECT}.db") as database:
        database.execute("delete from metrics where step = 0")
        database.execute("update metrics set metrics = '{}' where step = 2")
    off = ["--no-tensorboard", "--no-trackio"]
    second = trained(tmp_path, "--resume", checkpoint, "--total-steps", "3", *off, **place)
    run = run.rename(tmp_path / "moved")
    third = trained(tmp_path, "--resume", "--run-dir", "moved", "--total-steps", "4", *on, **place)
    for one in (second, third):
        assert (one.returncode, one.stderr) == (0, "")
    wanted = [panels(metrics) for metrics in rows(run / "metrics.jsonl")]
    shown = tensorboard_history(run / "tensorboard")
    ((name, logged),) = trackio_history(tmp_path / "trackio").items()  # one run
    assert name.startswith("run-") and [step for step, _ in logged] == [0, 1, 2, 3, 4]
    assert len(shown) == len(wanted) == 5
    timed = ("time/", "perf/", "train/step_time")  # of step 3: by which of the two processes
    for one, (_, other), row in zip(shown, logged, wanted, strict=True):
        for found in (one, other):
            assert found.keys() == row.keys()
            for key in row:
                if not key.startswith(timed):
                    assert found[key] == pytest.approx(row[key], rel=1e-6), key


@pytest.mark.slow
def test_whatever_trackio_meets_the_run_is_the_same(untracked, tmp_path):
    """A folder that is a file, a server that nobody runs, one without its token."""
    pytest.importorskip("trackio", reason="pip install trackio")
    (tmp_path / "file").write_text("")
    server = "http://127.0.0.1:9"  # nobody listens
    environments = {
        "a file": {"TRACKIO_DIR": str(tmp_path / "file")},
        "no server": {"TRACKIO_SERVER_URL": f"{server}/?write_token=a"},
        "no token": {"TRACKIO_SERVER_URL": server},
    }
    said = untouched_by_all(tmp_path, untracked, "--trackio", environments)
    assert all(len(text.splitlines()) <= 2 for text in said), said


@pytest.mark.parametrize("name", trackers.TRACKERS)
def test_a_missing_package_is_one_sentence_before_anything_is_written(
    name, tmp_path, monkeypatch, capsys
):
    """A folder of its name, as wandb leaves one where it is started, is no package."""
    (tmp_path / name).mkdir()
    monkeypatch.setattr(sys, "path", [str(tmp_path)])
    for module in [one for one in sys.modules if one.partition(".")[0] == name]:
        monkeypatch.delitem(sys.modules, module)
    argv = ["--model", "tiny", f"--{name}", "--run-dir", str(tmp_path / "run")]
    assert train.main(argv) == 2
    said = capsys.readouterr()
    assert (said.out, said.err) == ("", f"--{name}: needs the package {name}; pip install {name}\n")
    assert [path.name for path in tmp_path.iterdir()] == [name]


@pytest.mark.parametrize(
    ("follower", "said"),
    [
        ("import os; os.kill(os.getpid(), 9)", "wandb ended early (Killed); metrics.jsonl is complete\n"),
        ("raise SystemExit(3)", "wandb ended early (exit status 3); metrics.jsonl is complete\n"),
        ("print('first\\n\\x1b[2Jlast\\t' + 'x' * 10**6)", "[2Jlast " + "x" * 492 + "...\n"),
        ("input() if False else None", ""),
    ],
)  # fmt: skip
def test_what_becomes_of_a_tracker_is_one_line(follower, said, tmp_path, monkeypatch, capsys):
    """Stand-ins for its process, since none can be made to fail on purpose in each of these ways."""
    (tmp_path / "follower.py").write_text(follower)
    monkeypatch.setattr(trackers, "FOLLOWER", tmp_path / "follower.py")
    args = replace(AZRArgs(), wandb=True)
    found = trackers.Trackers(args, tmp_path, 0, 0, {"trackio": "of another time"})
    found.release()
    found.wait()
    assert capsys.readouterr().err == said
    assert found.ids.keys() == {"trackio", "wandb"}


def test_a_sentence_about_a_tracker_is_one_line(capsys):
    trackers.say("wandb", "stopped (ValueError: a\nb\x1b[31m " + "c" * 1000 + ")")
    (line,) = capsys.readouterr().err.splitlines()
    assert line.startswith("wandb stopped (ValueError: a b [31m ccc") and line.isprintable()
    assert line.endswith("...; metrics.jsonl is complete") and len(line) < 600


def test_every_tracker_has_a_flag_a_sink_and_a_log():
    assert SINKS.keys() == set(trackers.TRACKERS)
    for name in trackers.TRACKERS:
        assert getattr(AZRArgs(), name) is False and trackers.LOG.format(name) in WRITTEN
