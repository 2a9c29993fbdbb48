"""Runs on file systems that can do less, and in folders that others write into. Oracles: the run that
met no such thing, and the files before."""

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
from helpers.run_contents import SMALL, assert_equal_runs, contents, done_here, main_here

from constants import ROOT
from model.args import parse_args
from model.recording.recorder import Recorder
from model.run.checkpoints import Checkpoints, damage
from model.run.directory import RunDirectory
from model.run.finished import FinishedRun
from model.run.layout import BEST
from utils.files import is_litter, remove

# Calls of the system replaced by failing ones: a file system without them cannot be mounted everywhere.
POOR = """
import errno, fcntl, os, stat, sys
sys.path.insert(0, sys.argv.pop(1))

def refuse(number):
    def refused(*args, **kwargs):
        raise OSError(number, os.strerror(number))
    return refused

def replace(source, target, original=os.replace):
    if os.path.lexists(target):
        refuse(errno.EEXIST)()
    original(source, target)

def fsync(descriptor, original=os.fsync):
    if stat.S_ISDIR(os.fstat(descriptor).st_mode):
        refuse(errno.EINVAL)()
    original(descriptor)

import model.train
os.symlink = os.link = os.chmod = refuse(errno.EPERM)
fcntl.flock = refuse(errno.ENOTSUP)
os.replace, os.fsync = replace, fsync
sys.exit(model.train.main(sys.argv[1:]))
"""


def poorly(*argv: str) -> None:
    result = subprocess.run(
        [sys.executable, "-c", POOR, str(ROOT), *argv], capture_output=True, text=True
    )
    assert result.returncode == 0, result.stderr


def links(folder: Path) -> list[Path]:
    return [path for path in folder.rglob("*") if path.is_symlink()]


@pytest.mark.slow
def test_a_file_system_that_can_do_little_holds_the_same_run(half, tmp_path):
    """No links, no permissions, no locks, no syncing of folders, no replacing of files."""
    run = tmp_path / "run"
    poorly(*SMALL, "--total-steps", "12", "--run-dir", str(run))
    poorly("--resume", "--run-dir", str(run), "--total-steps", "20")
    assert_equal_runs(run, half)


def test_a_run_directory_holds_no_link(half):
    assert links(half) == []


# ---------------------------------------------------------------- runs of before, and copies of them


def as_before(run: Path) -> str:
    """Make `best` the link that it was; the checkpoint it names."""
    best = run / "checkpoints" / BEST
    name = best.read_text().strip()
    best.unlink()
    best.symlink_to(name)
    return name


@pytest.mark.slow
def test_a_run_with_a_link_goes_on(whole, copy):
    as_before(copy)
    assert FinishedRun(copy).newest_checkpoint.name == "step_000020"
    done_here("--resume", "--run-dir", str(copy), "--total-steps", "40")
    assert_equal_runs(copy, whole)
    assert links(copy) == []


@pytest.mark.slow
def test_a_copy_that_followed_the_link_goes_on(whole, copy):
    as_before(copy)
    subprocess.run(["cp", "-rL", copy, copy.with_name("copied")], check=True)
    copied = copy.with_name("copied")
    assert (copied / "checkpoints" / BEST / "trainer.json").is_file()
    done_here("--resume", "--run-dir", str(copied), "--total-steps", "40")
    assert_equal_runs(copied, whole)
    assert not list(copied.glob("superseded-*/step_*"))  # a duplicate is not kept


@pytest.fixture
def unfolded(copy) -> tuple[Path, Path]:
    """A run whose folder `best` is a checkpoint, and that checkpoint by its name."""
    folder = copy / "checkpoints"
    own = folder / (folder / BEST).read_text().strip()
    (folder / BEST).unlink()
    shutil.copytree(own, folder / BEST)
    return copy, own


@pytest.mark.slow
def test_a_copied_checkpoint_that_is_the_only_one_is_gone_on_from(half, unfolded):
    run, own = unfolded
    for step in Checkpoints(run / "checkpoints", 1).steps():
        shutil.rmtree(Checkpoints(run / "checkpoints", 1).path(step))
    result = done_here("--resume", "--run-dir", str(run))
    assert f"going on from {run / 'checkpoints' / BEST}" in result.stdout
    assert_equal_runs(run, half)
    assert damage(own) is None


def test_a_copy_takes_the_place_of_a_damaged_checkpoint(unfolded):
    run, own = unfolded
    (own / "model.safetensors").write_bytes(b"")
    done_here("--resume", "--run-dir", str(run))
    assert damage(own) is None
    assert (run / "superseded-1" / own.name / "model.safetensors").read_bytes() == b""


@pytest.mark.slow
@pytest.mark.parametrize("what", ["its own file", "damage", "no checkpoint"])
def test_a_folder_best_that_is_no_duplicate_is_kept(unfolded, what):
    run, own = unfolded
    best = run / "checkpoints" / BEST
    if what == "its own file":
        (best / "notes.txt").write_text("mine")
    elif what == "damage":
        (best / "model.safetensors").write_bytes(b"half")
    else:
        shutil.rmtree(best)
        best.mkdir()
        (best / "notes.txt").write_text("mine")
    before = {path.name: path.read_bytes() for path in best.iterdir()}
    done_here("--resume", "--run-dir", str(run))
    kept = run / "superseded-1" / BEST
    assert {path.name: path.read_bytes() for path in kept.iterdir()} == before
    assert best.read_text().strip() == own.name


@pytest.mark.slow
@pytest.mark.parametrize("pointer", ["best", "latest"])
def test_a_pointer_is_the_checkpoint_that_it_names(copy, pointer):
    file = copy / "checkpoints" / pointer
    named = file.parent / file.read_text().strip()
    result = done_here("--resume", str(file))
    assert f"going on from {named}" in result.stdout


# ---------------------------------------------------------------- litter

LITTER = [
    ".DS_Store", "._metrics.jsonl", ".nfs000000000012", "Thumbs.db", "desktop.ini", "notes.txt~",
    ".metrics.jsonl.swp", "#notes.txt#", ".#notes.txt", "config.json.bak", ".tensorboard-info",
]  # fmt: skip
LITTER_FOLDERS = [".ipynb_checkpoints", "lost+found", "__pycache__", ".wandb", ".Trash-1000"]


def strew(folder: Path) -> dict[Path, bytes]:
    """Put litter into a folder; what it is."""
    for name in LITTER_FOLDERS:
        (folder / name).mkdir()
        (folder / name / "left.txt").write_text("not ours")
    for name in LITTER:
        (folder / name).write_text("not ours")
    return litter_in(folder)


def litter_in(folder: Path) -> dict[Path, bytes]:
    paths = [p for p in folder.rglob("*") if p.is_file()]
    return {p: p.read_bytes() for p in paths if p.read_bytes() == b"not ours"}


def test_litter_is_told_from_what_somebody_wrote():
    assert all(
        map(is_litter, [*LITTER, *LITTER_FOLDERS, "THUMBS.DB", "Desktop.ini", "$RECYCLE.BIN"])
    )
    mine = ["thesis.txt", "notes", "metrics.jsonl", "data.db", "plots", "lost", "model.py", "a~b"]
    assert not any(map(is_litter, mine))


@pytest.mark.slow
def test_litter_stops_neither_a_new_run_nor_one_that_goes_on(whole, tmp_path):
    run = tmp_path / "run"
    run.mkdir()
    before = strew(run)
    done_here(*SMALL, "--total-steps", "20", "--run-dir", str(run))
    for folder in ("plots", "checkpoints", "checkpoints/step_000020"):
        before |= strew(run / folder)
    done_here("--resume", "--run-dir", str(run), "--total-steps", "40")
    kept = {path: text for path, text in before.items() if path.parent.name != "step_000020"}
    kept = {p: text for p, text in kept.items() if p.parent.parent.name != "step_000020"}
    assert kept.items() <= litter_in(run).items()
    for path in litter_in(run):
        path.unlink()
    for path in sorted(run.rglob("*"), reverse=True):
        if path.is_dir() and is_litter(path.name):
            path.rmdir()
    assert_equal_runs(run, whole)


def test_a_run_that_could_not_start_deletes_its_own_files_alone(tmp_path):
    run = tmp_path / "run"
    run.mkdir()
    strew(run)
    recorder = Recorder(parse_args([*SMALL, "--run-dir", str(run)]), None)
    before = {**litter_in(run), **strew(run / "plots")}
    recorder.discard()
    assert litter_in(run) == before and len(before) == 2 * len(LITTER + LITTER_FOLDERS)
    left = {path.name for path in run.iterdir() if not is_litter(path.name)}
    assert left == {"plots"}  # which holds litter
    assert not [path for path in (run / "plots").iterdir() if not is_litter(path.name)]


def test_folders_made_for_a_run_that_could_not_start_are_gone(tmp_path):
    run = RunDirectory(parse_args([*SMALL, "--run-dir", str(tmp_path / "a" / "b" / "run")]))
    run.discard()
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("name", ["thesis.txt", "metrics.csv", "run2/metrics.jsonl"])
def test_somebodys_files_are_named_and_stop_a_run(copy, tmp_path, name):
    for folder, argv in ((copy, ["--resume"]), (tmp_path / "new", SMALL)):
        file = folder / name
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_text("mine")
        strew(folder)
        result = main_here(*argv, "--run-dir", str(folder))
        assert result.returncode == 2 and file.read_text() == "mine"
        assert name.split("/")[0] in result.stderr
        assert len(result.stderr.strip().splitlines()) == 1


@pytest.mark.slow
def test_a_checkpoint_that_cannot_be_deleted_ends_no_run(whole, copy, monkeypatch):
    """As on a network drive that keeps a deleted file which is still open, under another name. A mock:
    no such drive can be had."""
    original = os.rmdir

    def rmdir(path, *args, **kwargs):
        if ".step_000015" in str(path) or str(path) == ".step_000015.partial":
            raise OSError(39, "Directory not empty", str(path))
        return original(path, *args, **kwargs)

    with monkeypatch.context() as patched:
        patched.setattr(os, "rmdir", rmdir)
        done_here("--resume", "--run-dir", str(copy), "--total-steps", "35")
    assert (copy / "checkpoints" / ".step_000015.partial").is_dir()
    done_here("--resume", "--run-dir", str(copy), "--total-steps", "40")
    assert_equal_runs(copy, whole)
    assert not list((copy / "checkpoints").glob(".*"))


def test_removing_spares_litter_alone(tmp_path):
    folder = tmp_path / "wandb"
    (folder / "run" / "files").mkdir(parents=True)
    (folder / "run" / "files" / "log").write_text("")
    (folder / "run" / ".DS_Store").write_text("")
    remove(folder)
    assert [path.name for path in folder.rglob("*")] == ["run", ".DS_Store"]
    (folder / "run" / ".DS_Store").unlink()
    remove(folder)
    assert not folder.exists()


def test_the_comparison_of_runs_sees_the_best(half, copy):
    """Negative control."""
    (copy / "checkpoints" / BEST).write_text("step_000001\n")
    assert contents(copy)["best"] != contents(half)["best"]
    assert json.loads((copy / "config.json").read_text())["args"]["total_steps"] == 20
