"""What `--resume` must not do, and disks that are full. Oracles: the files before, and the run that was
never interrupted."""

import json
import resource
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
from helpers.run_contents import SMALL, assert_equal_runs, done_here, main_here

from constants import ROOT
from model import train

pytestmark = pytest.mark.slow

# ---------------------------------------------------------------- refusals


@pytest.mark.parametrize(
    ("argv", "said"),
    [
        (["--seed", "1"], "--seed 1: must be 0, as in the run that goes on"),
        (["--model", "smollm2"], "--model smollm2: must be tiny, as in"),
        (["--max-prime", "31"], "--max-prime 31: must be 13, as in"),
        (["--batch-size", "9"], "--batch-size 9: must be 8, as in"),
        (["--total-steps", "19"], "--total-steps 19: must be at least 20"),
    ],
)
def test_another_science_is_refused_by_name(copy, argv, said):
    before = {path: path.read_bytes() for path in copy.rglob("*") if path.is_file()}
    result = main_here("--resume", "--run-dir", str(copy), *argv)
    assert result.returncode == 2 and result.stdout == ""
    assert said in result.stderr and len(result.stderr.strip().splitlines()) == 1
    assert {path: path.read_bytes() for path in copy.rglob("*") if path.is_file()} == before


def test_what_is_no_run_is_refused(copy, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "notes").mkdir()
    (tmp_path / "notes" / "thesis.txt").write_text("mine")
    for argv, said in (
        (["--resume"], "--resume: needs --run-dir, --run-name or the path of a checkpoint"),
        (["--resume", ""], "--resume '': must be the path of a checkpoint or a run, or nothing"),
        (["--resume", "notes"], "--resume notes: must be a checkpoint or a run directory"),
        (["--resume", "--run-dir", "notes"], "--run-dir notes: must be a run directory; it holds thesis.txt"),
        (["--resume", str(copy), "--run-dir", "other"], "--run-dir must be that or left out"),
    ):  # fmt: skip
        result = main_here(*argv)
        assert result.returncode == 2 and said in result.stderr, result.stderr
    assert [path.name for path in (tmp_path / "notes").iterdir()] == ["thesis.txt"]
    assert not (tmp_path / "other").exists()


def test_a_log_that_lost_lines_is_refused(copy):
    (copy / "metrics.jsonl").write_text('{"step": 0}\n')
    result = main_here("--resume", "--run-dir", str(copy))
    assert result.returncode == 2 and "metrics.jsonl: has 12 bytes, fewer than" in result.stderr


def test_two_processes_do_not_write_one_run(copy):
    locking = f"import fcntl; log = open({str(copy / 'metrics.jsonl')!r}, 'ab'); fcntl.flock(log, fcntl.LOCK_EX); print(flush=True); input()"
    with subprocess.Popen(
        [sys.executable, "-c", locking], stdin=subprocess.PIPE, stdout=subprocess.PIPE
    ) as other:
        other.stdout.readline()
        result = main_here("--resume", "--run-dir", str(copy))
        other.communicate(b"\n")
    assert result.returncode == 2 and "another process is writing this run" in result.stderr


def test_a_checkpoint_that_was_set_aside_is_refused(copy):
    """Its logs are another story's."""
    aside = copy / "superseded-1"
    aside.mkdir()
    moved = (copy / "checkpoints" / "step_000020").rename(aside / "step_000020")
    result = main_here("--resume", str(moved))
    assert result.returncode == 2 and "not in the checkpoints folder of its run" in result.stderr


def test_logs_beyond_what_an_interruption_explains_are_kept(half, copy):
    """Somebody made room by deleting the checkpoints of a run of 20 steps."""
    shutil.rmtree(copy / "checkpoints")
    before = (copy / "metrics.jsonl").read_bytes()
    done_here("--resume", "--run-dir", str(copy))
    assert (copy / "superseded-1" / "metrics.jsonl").read_bytes() == before
    shutil.rmtree(copy / "superseded-1")
    assert_equal_runs(copy, half)


def test_a_config_that_was_lost_is_no_obstacle(half, copy):
    """A checkpoint holds the arguments too."""
    (copy / "config.json").write_text("")
    done_here("--resume", "--run-dir", str(copy))
    assert_equal_runs(copy, half)


def test_a_longer_run_that_was_interrupted_goes_on_to_its_longer_end(whole, copy):
    """The last command's --total-steps counts, though no checkpoint has it yet."""
    config = json.loads((copy / "config.json").read_text())
    config["args"]["total_steps"] = 40
    (copy / "config.json").write_text(json.dumps(config))
    done_here("--resume", "--run-dir", str(copy))
    assert_equal_runs(copy, whole)


# ---------------------------------------------------------------- a full disk


def limited(cwd: Path, size: int, *argv: str) -> subprocess.CompletedProcess:
    """train.py where no file can become larger than `size` bytes."""
    return subprocess.run(
        [sys.executable, str(ROOT / "model" / "train.py"), *argv],
        cwd=cwd, capture_output=True, text=True,
        preexec_fn=lambda: resource.setrlimit(resource.RLIMIT_FSIZE, (size, size)),
    )  # fmt: skip


def test_a_disk_that_refuses_ends_the_run_with_the_last_good_checkpoint(whole, copy):
    """The kernel's own error in the middle of a file; afterwards the run can go on."""
    result = limited(copy.parent, 100_000, "--resume", str(copy), "--total-steps", "40")
    assert result.returncode == 2
    assert "step_000025: cannot be written" in result.stderr
    assert f"the last good checkpoint is {copy / 'checkpoints' / 'step_000020'}" in result.stderr
    assert not list((copy / "checkpoints").glob(".*"))
    done_here("--resume", str(copy))
    assert_equal_runs(copy, whole)


def test_room_is_checked_before_the_run_and_before_each_checkpoint(copy, monkeypatch, capsys):
    # A mock: no file system of a known small size can be had everywhere.
    free = iter([10**9, 1000])
    usage = shutil.disk_usage(copy)
    monkeypatch.setattr("shutil.disk_usage", lambda path: usage._replace(free=next(free)))
    assert train.main(["--resume", str(copy), "--total-steps", "40", "--quiet"]) == 2
    said = capsys.readouterr().err
    assert "MiB of disk, and 0 MiB are free" in said
    assert f"the last good checkpoint is {copy / 'checkpoints' / 'step_000020'}" in said

    monkeypatch.setattr("shutil.disk_usage", lambda path: usage._replace(free=10))
    new = copy.parent / "new"
    assert train.main([*SMALL, "--run-dir", str(new), "--quiet"]) == 2
    assert "of disk" in capsys.readouterr().err and not new.exists()
