"""Going on with a run. Oracle: the same run, never interrupted, to the last bit."""

import json
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from helpers.chat_models import save_model
from helpers.run_contents import SMALL, assert_equal_runs, contents, done_here, main_here
from safetensors.torch import load_file
from test_cli import done, rows

from constants import ROOT
from model.args import parse_args
from model.recording.recorder import Recorder

pytestmark = pytest.mark.slow

# ---------------------------------------------------------------- exact


def test_40_steps_are_20_and_20_in_another_process(whole, copy):
    """Weights, optimizer, buffers, generators and logs."""
    result = done("--resume", "--run-dir", str(copy), "--total-steps", "40", cwd=copy.parent)
    assert f"going on from {copy / 'checkpoints' / 'step_000020'}" in result.stdout
    assert_equal_runs(copy, whole)
    assert [row["step"] for row in rows(copy / "metrics.jsonl")] == list(range(41))
    config = json.loads((copy / "config.json").read_text())
    assert config["args"]["total_steps"] == 40 and config["args"]["resume"] is None
    assert [entry["step"] for entry in config["resumed"]] == [20]


def test_what_is_compared_is_not_nothing(whole, half):
    """Negative control: the comparison sees that a run of 20 steps is another one."""
    ours, theirs = contents(whole), contents(half)
    names = {"step_000040/model.safetensors", "step_000040/trainer.safetensors"}
    assert names <= ours.keys() and not names & theirs.keys()
    assert ours["metrics.jsonl"] != theirs["metrics.jsonl"]
    state = load_file(whole / "checkpoints" / "step_000040" / "trainer.safetensors")
    moments = [value for name, value in state.items() if name.endswith("/exp_avg_sq")]
    assert len(moments) > 5 and all(value.abs().sum() > 0 for value in moments)
    assert {"generators/sampling", "generators/evaluation sampling"} <= state.keys()


def assert_goes_on_as_it_did(whole: Path, run) -> None:
    """From the checkpoint of step 2 of a run of 4 steps, by the train.py that `run` calls."""
    again = Path(shutil.copytree(whole, whole.with_name("again")))
    run("--resume", str(again / "checkpoints" / "step_000002"))
    shutil.rmtree(again / "superseded-1")
    assert_equal_runs(again, whole)


@pytest.mark.parametrize("further", [[], ["--lora-rank", "2"]], ids=["all weights", "adapters"])
def test_a_chat_model_goes_on_exactly(tmp_path, further):
    """Of its checkpoint alone where all weights are trained: the model it started from is gone."""
    if further:
        pytest.importorskip("peft", reason="pip install peft")
    save_model(tmp_path / "model")
    short = [
        "--model", str(tmp_path / "model"), "--eval-every", "1", "--checkpoint-every", "1", "--batch-size",
        "2", "--n-references", "1", "--max-answer-tokens", "4", "--max-proposal-tokens", "4", "--max-prime",
        "13", "--eval-problems", "2", "--keep-checkpoints", "9", *further,
    ]  # fmt: skip
    done_here(*short, "--total-steps", "4", "--run-dir", str(tmp_path / "whole"))
    if not further:
        shutil.rmtree(tmp_path / "model")
    torch.manual_seed(5)  # of a process that has done other things
    assert_goes_on_as_it_did(tmp_path / "whole", done_here)


def test_two_processes_go_on_as_two(tmp_path):
    flags = [*SMALL, "--checkpoint-every", "2", "--eval-every", "2", "--total-steps", "4"]
    launcher = [
        sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc_per_node", "2",
        str(ROOT / "model" / "train.py"),
    ]  # fmt: skip

    def launched(*argv: str) -> None:
        result = subprocess.run([*launcher, *argv], capture_output=True, text=True)
        assert result.returncode == 0, result.stderr

    launched(*flags, "--run-dir", str(tmp_path / "whole"))
    assert_goes_on_as_it_did(tmp_path / "whole", launched)


# ---------------------------------------------------------------- what it goes on from


def test_without_a_checkpoint_it_starts_from_step_0_and_says_so(half, tmp_path):
    """A run that was killed early: its settings and some of its logs are there."""
    killed = tmp_path / "killed"
    killed.mkdir()
    shutil.copy(half / "config.json", killed)
    (killed / "metrics.jsonl").write_text('{"step": 0}\n{"st')
    result = done_here("--resume", "--run-dir", str(killed))
    assert "there is no checkpoint yet: starting from step 0" in result.stdout
    assert_equal_runs(killed, half)
    new = done_here("--resume", "--run-dir", str(tmp_path / "new"), *SMALL, "--total-steps", "0")
    assert "starting from step 0" in new.stdout


def test_a_run_that_died_while_its_model_was_loaded_goes_on_with_its_own_arguments(half, tmp_path):
    """What such a run leaves is what stands on disk before a model is asked for."""
    early = tmp_path / "early"
    argv = [*SMALL, "--total-steps", "20", "--run-dir", str(early)]
    Recorder(parse_args(argv), None).run.close()
    done_here("--resume", "--run-dir", str(early))
    assert_equal_runs(early, half)


def test_a_finished_run_has_nothing_left_to_do(half, copy):
    done_here("--resume", "--run-dir", str(copy))
    assert_equal_runs(copy, half)


def break_file(file: Path, how: str) -> None:
    content = bytearray(file.read_bytes())
    if how.startswith("cannot be read") or file.name == "manifest.json":
        file.unlink()
    elif how == "is not what was written":
        content[len(content) // 2] ^= 1
        file.write_bytes(content)
    else:
        file.write_bytes(content[: len(content) // 2])


@pytest.mark.parametrize(
    ("name", "how"),
    [
        ("model.safetensors", "is not what was written"),
        ("trainer.safetensors", "bytes instead of"),
        ("trainer.json", "cannot be read (No such file or directory)"),
        ("manifest.json", "is missing or unreadable"),
    ],
)
def test_a_damaged_checkpoint_is_skipped_by_name(whole, copy, name, how):
    newest = copy / "checkpoints" / "step_000020"
    break_file(newest / name, how)
    result = done_here("--resume", str(copy), "--total-steps", "40")
    assert f"{newest}: skipped, its {name}" in result.stderr and how in result.stderr
    assert f"going on from {copy / 'checkpoints' / 'step_000015'}" in result.stdout
    assert (copy / "superseded-1" / "step_000020").is_dir()
    shutil.rmtree(copy / "superseded-1")
    assert_equal_runs(copy, whole)


def test_nothing_is_begun_again_where_every_checkpoint_is_damaged(copy):
    for file in copy.glob("checkpoints/step_*/trainer.json"):
        break_file(file, "bytes instead of")
    before = {path: path.read_bytes() for path in copy.rglob("*") if path.is_file()}
    result = main_here("--resume", "--run-dir", str(copy))
    assert result.returncode == 2 and len(result.stderr.strip().splitlines()) == 1
    assert "no checkpoint is complete" in result.stderr
    folders = len(list(copy.glob("checkpoints/step_*")))
    assert result.stderr.count("skipped, its trainer.json has") == folders >= 2
    assert {path: path.read_bytes() for path in copy.rglob("*") if path.is_file()} == before


def test_an_older_checkpoint_by_its_path_keeps_what_came_later(half, copy):
    before = {name: (copy / name).read_bytes() for name in ("metrics.jsonl", "rollouts.jsonl")}
    done_here("--resume", str(copy / "checkpoints" / "step_000015"))
    aside = copy / "superseded-1"
    assert {name: (aside / name).read_bytes() for name in before} == before
    assert (aside / "step_000020" / "model.safetensors").exists()
    shutil.rmtree(aside)
    assert_equal_runs(copy, half)


def test_the_newest_and_the_best_are_kept(whole):
    """keep_checkpoints is 2; best is the first of the highest accuracy."""
    folder = whole / "checkpoints"
    accuracy = {r["step"]: r["eval/accuracy"] for r in rows(whole / "metrics.jsonl")[1:] if "eval/accuracy" in r}  # fmt: skip
    best = max(accuracy, key=lambda step: (accuracy[step], -step))
    assert (folder / "best").read_text() == f"step_{best:06d}\n"
    kept = {path.name for path in folder.iterdir() if path.name.startswith("step_")}
    assert kept == {f"step_{step:06d}" for step in (best, 35, 40)}
    assert (folder / "latest").read_text() == "step_000040\n"
