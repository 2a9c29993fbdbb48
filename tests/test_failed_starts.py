"""What fails before the first step leaves nothing in the way, what fails after the last checkpoint costs
nothing, and each is said of what it is. Oracles: the folders before, and the run that met no failure."""

import errno
import os
import subprocess
import sys
from pathlib import Path

import pytest
from helpers.chat_models import save_model
from helpers.run_contents import SMALL, assert_equal_runs, done_here, main_here
from test_resume_refused import limited

from constants import ROOT
from model import train
from model.eval.evaluator import Evaluator
from model.policy.load import PolicyError
from model.report.pictures import save_plots
from model.report.sections import save_report
from utils.files import file_error

# A model folder's own run: nothing is trained, so that what it answers does not matter.
QUICK = [
    "--total-steps", "0", "--eval-problems", "2", "--max-answer-tokens", "2", "--max-prime", "13",
]  # fmt: skip


def sentence(result: subprocess.CompletedProcess) -> str:
    assert result.returncode == 2, result.stderr
    (said,) = result.stderr.strip().splitlines()
    return said


# ---------------------------------------------------------------- whose fault it is


@pytest.mark.slow
@pytest.mark.parametrize(
    ("how", "said"),
    [
        ("weights are cut off", "file not fully covered"),
        ("weights are a folder", ""),
        ("weights are missing", ""),
        ("tokenizer is cut off", ""),
        ("config is a folder", ""),
    ],
)
def test_a_broken_model_is_the_models_fault(tmp_path, how, said):
    model = tmp_path / "model"
    save_model(model)
    file = model / {"w": "model.safetensors", "t": "tokenizer.json", "c": "config.json"}[how[0]]
    content = file.read_bytes()
    file.unlink()
    if how.endswith("cut off"):
        file.write_bytes(content[: len(content) // 2])
    elif how.endswith("a folder"):
        file.mkdir()
    run = tmp_path / "run"
    result = main_here(*QUICK, "--model", str(model), "--run-dir", str(run))
    assert sentence(result).startswith(f"--model {model}: ") and said in result.stderr
    assert "run directory" not in result.stderr and not run.exists()
    if file.is_dir():
        file.rmdir()
    file.write_bytes(content)
    done_here(*QUICK, "--model", str(model), "--run-dir", str(run))


@pytest.mark.skipif(os.geteuid() == 0, reason="root may read everything")
@pytest.mark.parametrize("name", ["model.safetensors", "tokenizer.json", "config.json", "."])
def test_a_model_that_may_not_be_read(tmp_path, name):
    save_model(tmp_path / "model")
    file = tmp_path / "model" / name
    file.chmod(0)
    argv = [*QUICK, "--model", str(tmp_path / "model"), "--run-dir", str(tmp_path / "run")]
    said = sentence(main_here(*argv))
    file.chmod(0o700)
    assert said == f"--model {tmp_path / 'model'}: cannot be loaded ({file} may not be read)"
    assert not (tmp_path / "run").exists()


@pytest.mark.parametrize("number", [errno.ENOSPC, errno.EACCES, errno.EIO])
@pytest.mark.parametrize("wrapped", [False, True])
def test_a_disk_that_refuses_a_model_is_named(tmp_path, monkeypatch, number, wrapped):
    """A mock: no hub, and no disk that is full, can be had everywhere."""
    at_fault = OSError(number, os.strerror(number), "/cache/blob")

    def load(args, checkpoint):
        if not wrapped:
            raise at_fault
        try:
            raise at_fault
        except OSError as error:
            raise PolicyError("--model tiny: holds no causal language model") from error

    monkeypatch.setattr(train, "load_policy", load)
    said = sentence(main_here(*SMALL, "--run-dir", str(tmp_path / "run")))
    assert said == f"--model tiny: cannot be loaded ({at_fault})"
    assert list(tmp_path.iterdir()) == []


def test_what_is_no_file_is_not_taken_for_one():
    """A network's complaint, with the advice that load_policy gives, stands as it is."""
    network = PolicyError("--model x: is no local folder")
    network.__cause__ = ConnectionRefusedError(errno.ECONNREFUSED, "Connection refused")
    assert file_error(network) is None
    rust = RuntimeError("IO Error: No space left on device (os error 28)")
    network.__cause__.__context__ = rust
    assert file_error(network) is rust


def test_a_checkpoint_that_breaks_while_it_is_read_is_named(copy, monkeypatch):
    """After it was found whole; a run directory that goes on is left as it is."""
    newest, found = copy / "checkpoints" / "step_000020", train.find_resumption

    def find(args):
        resumption = found(args)
        (newest / "trainer.safetensors").write_bytes(b"half")
        return resumption

    monkeypatch.setattr(train, "find_resumption", find)
    said = sentence(main_here("--resume", "--run-dir", str(copy), "--total-steps", "40"))
    assert said.startswith(f"{newest / 'trainer.safetensors'}: cannot be read")


# ---------------------------------------------------------------- nothing in the way


def failing(error: BaseException):
    def fail(*args, **kwargs):
        raise error

    return fail


@pytest.mark.slow
@pytest.mark.parametrize(
    ("owner", "name"),
    [
        (train, "load_policy"),
        (train, "warm_start"),
        (train, "AZRTrainer"),
        (train, "Evaluator"),
        (train, "evaluation_problems"),
        (Evaluator, "verdicts"),
        (Evaluator, "uniform_reward"),
        (train.Recorder, "start"),
    ],
)
@pytest.mark.parametrize("error", [IndexError("index out of range"), KeyboardInterrupt()])
def test_the_same_command_can_be_tried_again(tmp_path, monkeypatch, owner, name, error):
    run = tmp_path / "runs" / "run"
    argv = [*SMALL, "--eval-uniform", "--total-steps", "0", "--run-dir", str(run)]
    with monkeypatch.context() as patched:
        patched.setattr(owner, name, failing(error))
        if isinstance(error, KeyboardInterrupt):
            assert main_here(*argv).returncode == 130
        else:
            with pytest.raises(IndexError):
                main_here(*argv)
    assert list(tmp_path.iterdir()) == []
    done_here(*argv)


def test_memory_that_ends_in_the_first_evaluation(tmp_path, monkeypatch):
    with monkeypatch.context() as patched:
        patched.setattr(Evaluator, "verdicts", failing(MemoryError()))
        said = sentence(main_here(*SMALL, "--run-dir", str(tmp_path / "run")))
    assert said.startswith("out of memory") and list(tmp_path.iterdir()) == []


def test_what_was_recorded_stays(tmp_path, monkeypatch):
    """Negative control: a failure of step 1, after the evaluation of step 0."""
    run = tmp_path / "run"
    with monkeypatch.context() as patched:
        patched.setattr(train.AZRTrainer, "step", failing(IndexError("index out of range")))
        with pytest.raises(IndexError):
            main_here(*SMALL, "--total-steps", "1", "--run-dir", str(run))
    assert (run / "metrics.jsonl").read_text().startswith('{"step": 0')
    assert sentence(main_here(*SMALL, "--run-dir", str(run))).startswith(f"--run-dir {run}: ")


@pytest.mark.slow
def test_a_run_that_goes_on_is_not_deleted(half, copy, monkeypatch):
    for owner, name in ((train, "load_policy"), (train.AZRTrainer, "step")):
        with monkeypatch.context() as patched:
            patched.setattr(owner, name, failing(IndexError("index out of range")))
            with pytest.raises(IndexError):
                main_here("--resume", "--run-dir", str(copy), "--total-steps", "21")
    done_here("--resume", "--run-dir", str(copy), "--total-steps", "20")
    assert_equal_runs(copy, half)


@pytest.mark.slow
def test_a_disk_that_takes_no_file_keeps_no_folder(tmp_path):
    """The kernel refuses any file of more than ten bytes: the configuration is the first."""
    result = limited(tmp_path, 10, *SMALL, "--run-dir", "run")
    assert sentence(result).startswith("--run-dir run: must be a folder that can be written")
    assert list(tmp_path.iterdir()) == []


# ---------------------------------------------------------------- after the last checkpoint


@pytest.mark.slow
@pytest.mark.parametrize(
    ("stuck", "named"), [("plots/accuracy.png", "plots"), ("report.html", "report.html")]
)
def test_a_picture_or_a_report_that_cannot_be_written_costs_a_line(copy, stuck, named):
    """A folder stands in its place."""
    (copy / stuck).unlink()
    (copy / stuck).mkdir()
    result = done_here("--resume", "--run-dir", str(copy))
    (said,) = result.stderr.strip().splitlines()
    assert said.startswith(f"{copy / named} could not be written (IsADirectoryError")
    assert "report " in result.stdout


@pytest.mark.slow
@pytest.mark.parametrize(
    ("owner", "name", "said"),
    [
        (
            "model.recording.recorder.save_plots",
            ValueError("bad\nfont"),
            "plots could not be written",
        ),
        (
            "model.recording.recorder.save_report",
            ImportError("no vl_convert"),
            "report.html could not",
        ),
        (
            "model.recording.recorder.Trackers.wait",
            OSError(32, "Broken pipe"),
            "curves could not",
        ),
        ("model.recording.recorder.Console.end", IndexError("no rows"), "the summary could not"),
        ("model.recording.recorder.FinishedRun", OSError(5, "I/O error"), "the summary could not"),
        ("model.run.directory.RunDirectory.close", OSError(28, "No space left"), "logs could not"),
    ],
)
def test_whatever_fails_at_the_end_the_run_is_whole(half, tmp_path, monkeypatch, owner, name, said):
    run = tmp_path / "run"
    with monkeypatch.context() as patched:
        patched.setattr(owner, failing(name))
        result = done_here(*SMALL, "--total-steps", "20", "--run-dir", str(run))
    assert said in result.stderr and len(result.stderr.strip().splitlines()) == 1
    save_plots([run], run / "plots")
    save_report([run], run / "report.html")
    assert_equal_runs(run, half)


@pytest.mark.slow
def test_a_closed_pipe_ends_no_run(half, tmp_path):
    """`train.py | head -1`."""
    run = tmp_path / "run"
    command = [sys.executable, str(ROOT / "model" / "train.py"), *SMALL, "--total-steps", "20"]
    with subprocess.Popen(
        [*command, "--run-dir", str(run)], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    ) as process:
        process.stdout.readline()
        process.stdout.close()
        said = process.stderr.read()
    assert (process.returncode, said) == (0, "")
    assert_equal_runs(Path(run), half)
