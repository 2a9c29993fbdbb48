"""A run is resumed with the very logs it wrote, and loses no row. Oracles: the files before, SHA-256 of
the files, and the run that was never interrupted."""

import hashlib
import json
import os
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
from helpers.run_contents import SMALL, assert_equal_runs, done_here, main_here
from test_processes import TORCHRUN

from constants import ROOT
from model.run.logs import LOGS, Log

FILES = [f"{name}.jsonl" for name in LOGS]


def files(folder: Path) -> dict[Path, bytes]:
    return {path: path.read_bytes() for path in folder.rglob("*") if path.is_file()}


def positions(checkpoint: Path) -> dict:
    return json.loads((checkpoint / "trainer.json").read_text())["recorder"]["logs"]


def test_a_checkpoint_knows_the_logs_it_was_written_beside(half, copy):
    """Also those of a run that was gone on with."""
    done_here("--resume", "--run-dir", str(copy), "--total-steps", "30")
    for run, step in ((half, 20), (copy, 30)):
        for name, (size, written) in positions(run / "checkpoints" / f"step_{step:06d}").items():
            content = (run / f"{name}.jsonl").read_bytes()
            assert (len(content), hashlib.sha256(content).hexdigest()) == (size, written)
    earlier = positions(half / "checkpoints" / "step_000015")["metrics"]
    content = (half / "metrics.jsonl").read_bytes()[: earlier[0]]
    assert hashlib.sha256(content).hexdigest() == earlier[1]


def test_a_log_is_hashed_as_it_grows(tmp_path):
    log = Log(tmp_path / "log.jsonl")
    for step in range(5):
        log.append({"step": step, "text": "\ud800≡"})
        content = log.path.read_bytes()
        assert log.position() == [len(content), hashlib.sha256(content).hexdigest()]
    log.cut(len(content) // 5 * 2)
    log.append({"step": 9})
    log.close()
    again = Log(log.path)
    content = log.path.read_bytes()
    assert content.count(b"\n") == 3
    assert again.position() == [len(content), hashlib.sha256(content).hexdigest()]
    again.close()


# ---------------------------------------------------------------- other logs


def damaged(content: bytes, how: str) -> bytes:
    """A log with Windows line ends, or after an editor, a copy that broke off, or a lost disk block."""
    lines = content.splitlines(keepends=True)
    return {
        "windows": content.replace(b"\n", b"\r\n"),
        "one digit": content.replace(b"5", b"6", 1),
        "swapped lines": b"".join([lines[1], lines[0], *lines[2:]]),
        "longer line": lines[0].replace(b"}", b', "note": 1}', 1) + b"".join(lines[1:]),
        "byte order mark": b"\xef\xbb\xbf" + content,
        "zeros": content[:100] + bytes(50) + content[150:],
        "shorter": content[: len(content) // 2],
        "empty": b"",
    }[how]


HOWS = ["windows", "one digit", "swapped lines", "longer line", "byte order mark", "zeros"]


@pytest.mark.parametrize("how", [*HOWS, "shorter", "empty"])
@pytest.mark.parametrize("name", FILES)
def test_a_log_that_was_not_written_so_is_refused_and_nothing_changed(copy, name, how):
    log = copy / name
    log.write_bytes(damaged(log.read_bytes(), how))
    before = files(copy)
    result = main_here("--resume", "--run-dir", str(copy), "--total-steps", "40")
    assert result.returncode == 2 and result.stdout == ""
    (sentence,) = result.stderr.strip().splitlines()
    assert sentence.startswith(f"{log}: ")
    assert ("fewer than" if how in ("shorter", "empty") else "are not what was written") in sentence
    assert files(copy) == before


def test_a_log_that_is_gone_is_refused(copy):
    (copy / "rollouts.jsonl").unlink()
    before = files(copy)
    result = main_here("--resume", "--run-dir", str(copy))
    assert result.returncode == 2 and "rollouts.jsonl: has 0 bytes" in result.stderr
    assert files(copy) == before


@pytest.mark.slow
def test_each_of_several_processes_refuses(copy):
    log = copy / "metrics.jsonl"
    log.write_bytes(damaged(log.read_bytes(), "windows"))
    before = files(copy)
    command = [*TORCHRUN, "2", str(ROOT / "model" / "train.py"), "--resume", str(copy)]
    result = subprocess.run(command, capture_output=True, text=True, timeout=120)
    assert result.returncode != 0 and result.stderr.count(f"{log}: its first") == 2
    assert 'train.py", line' not in result.stderr  # torchrun has a traceback of its own
    assert files(copy) == before


@pytest.mark.slow
def test_a_run_of_before_that_counted_bytes_alone_goes_on(whole, copy):
    """Unless a line end is not where it was."""
    for checkpoint in copy.glob("checkpoints/step_*"):
        file = checkpoint / "trainer.json"
        values = json.loads(file.read_text())
        logs = values["recorder"]["logs"]
        values["recorder"]["logs"] = {name: size for name, (size, _) in logs.items()}
        file.write_text(json.dumps(values))
        manifest = json.loads((checkpoint / "manifest.json").read_text())
        content = file.read_bytes()
        manifest["trainer.json"] = [len(content), hashlib.sha256(content).hexdigest()]
        (checkpoint / "manifest.json").write_text(json.dumps(manifest))
    broken = Path(shutil.copytree(copy, copy.with_name("broken")))
    done_here("--resume", "--run-dir", str(copy), "--total-steps", "40")
    assert_equal_runs(copy, whole)
    log = broken / "metrics.jsonl"
    log.write_bytes(damaged(log.read_bytes(), "windows"))
    result = main_here("--resume", "--run-dir", str(broken))
    assert result.returncode == 2 and f"{log}: its first" in result.stderr


# ---------------------------------------------------------------- other arguments


@pytest.mark.parametrize(
    ("name", "value", "said"),
    [
        ("lr", 0.1, "has lr 0.1, and must have 0.00125"),
        ("seed", 7, "has seed 7, and must have 0"),
        ("total_steps", "many", "--total-steps many: must be an integer"),
        ("checkpoint_every", 0, "--checkpoint-every 0: must be"),
    ],
)
def test_an_edited_config_is_refused(copy, name, value, said):
    config = json.loads((copy / "config.json").read_text())
    config["args"][name] = value
    (copy / "config.json").write_text(json.dumps(config))
    before = files(copy)
    result = main_here("--resume", "--run-dir", str(copy))
    assert result.returncode == 2 and f"{copy}/config.json: {said}" in result.stderr
    assert len(result.stderr.strip().splitlines()) == 1 and files(copy) == before


@pytest.mark.slow
def test_a_config_with_windows_line_ends_is_the_same(whole, copy):
    text = (copy / "config.json").read_bytes()
    (copy / "config.json").write_bytes(text.replace(b"\n", b"\r\n"))
    done_here("--resume", "--run-dir", str(copy), "--total-steps", "40")
    assert_equal_runs(copy, whole)


def test_a_config_that_was_cut_off(half, copy):
    """The checkpoint has the arguments, and that is said; without one nobody has."""
    text = (copy / "config.json").read_text()
    (copy / "config.json").write_text(text[: len(text) // 2])
    early = copy.with_name("early")
    early.mkdir()
    shutil.copy(copy / "config.json", early)
    result = done_here("--resume", "--run-dir", str(copy))
    assert len(result.stderr.strip().splitlines()) == 1
    assert f"{copy}/config.json: must be JSON, and is damaged" in result.stderr
    assert_equal_runs(copy, half)
    before = files(early)
    result = main_here("--resume", "--run-dir", str(early))
    assert result.returncode == 2 and "config.json: must be JSON" in result.stderr
    assert files(early) == before


# ---------------------------------------------------------------- what is cut is kept


@pytest.mark.slow
def test_what_an_interruption_cost_is_kept(half, copy):
    """Rows after the checkpoint, and half a row."""
    steps = (copy / "checkpoints" / "step_000015").name
    shutil.rmtree(copy / "checkpoints" / "step_000020")
    with open(copy / "metrics.jsonl", "ab") as log:
        log.write(b'{"step": 21, "lo')
    before = {name: (copy / name).read_bytes() for name in FILES}
    result = done_here("--resume", "--run-dir", str(copy))
    assert steps in result.stdout
    kept = copy / "superseded-1"
    assert {path.name: path.read_bytes() for path in kept.iterdir()} == before
    assert_equal_runs(copy, half)


@pytest.mark.slow
def test_nothing_is_kept_where_nothing_is_cut(half, copy):
    done_here("--resume", "--run-dir", str(copy))
    assert not list(copy.glob("superseded-*"))
    with open(copy / "problems.jsonl", "ab") as log:
        log.write(b"{")
    before = (copy / "problems.jsonl").read_bytes()
    done_here("--resume", "--run-dir", str(copy))
    assert [path.name for path in (copy / "superseded-1").iterdir()] == ["problems.jsonl"]
    assert (copy / "superseded-1" / "problems.jsonl").read_bytes() == before
    assert_equal_runs(copy, half)


@pytest.mark.slow
def test_a_killed_process_loses_no_row(tmp_path):
    """SIGKILL after a few rows; each interruption has a folder of its own."""
    run = tmp_path / "run"
    argv = [
        *SMALL,
        "--total-steps",
        "100000",
        "--checkpoint-every",
        "1000000",
        "--run-dir",
        str(run),
    ]
    lost = []
    for further in ([], ["--resume"]):
        process = subprocess.Popen(
            [sys.executable, str(ROOT / "model" / "train.py"), *argv, *further],
            stdout=subprocess.DEVNULL, env={**os.environ, "OMP_NUM_THREADS": "1"},
        )  # fmt: skip
        deadline = time.monotonic() + 120
        while not (run / "metrics.jsonl").exists() or grown(run, lost) < 3:
            assert time.monotonic() < deadline and process.poll() is None
            time.sleep(0.05)
        process.send_signal(signal.SIGKILL)
        process.wait()
        lost.append((run / "metrics.jsonl").read_bytes())
    done_here("--resume", "--run-dir", str(run), "--total-steps", "0")
    kept = [(run / f"superseded-{number}" / "metrics.jsonl").read_bytes() for number in (1, 2)]
    assert kept == lost


def grown(run: Path, lost: list[bytes]) -> int:
    """Rows that this process has written; before it begins again, those of the one before are there."""
    content = (run / "metrics.jsonl").read_bytes()
    return 0 if lost and content == lost[-1] else content.count(b"\n")
