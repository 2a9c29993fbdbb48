"""One run in two processes. Oracles: the same run in one process, and the two against each other."""

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
import torch
from helpers.chat_models import save_model
from helpers.trainers import relative, untimed
from safetensors.torch import load_file

from constants import ROOT

pytestmark = pytest.mark.slow

TORCHRUN = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc_per_node"]
ENVIRONMENT = {k: v for k, v in os.environ.items() if k != "PYTHONPATH"} | {"OMP_NUM_THREADS": "1"}


def trained(folder: Path, processes: int, steps: int, **changes: int | str) -> list[dict]:
    """What each process leaves behind."""
    folder.mkdir()
    flags = [f"{name}={value}" for name, value in changes.items()]
    program = [
        str(ROOT / "tests" / "helpers" / "one_of_several.py"),
        str(folder),
        str(steps),
        *flags,
    ]
    launcher = [*TORCHRUN, str(processes)] if processes > 1 else [sys.executable]
    result = subprocess.run([*launcher, *program], env=ENVIRONMENT, capture_output=True, text=True)
    assert result.returncode == 0, result.stderr
    return [torch.load(folder / f"{rank}.pt") for rank in range(processes)]


@pytest.fixture(scope="module")
def one(tmp_path_factory) -> dict:
    return trained(tmp_path_factory.mktemp("alone") / "run", 1, 1)[0]


@pytest.fixture(scope="module")
def two(tmp_path_factory) -> list[dict]:
    return trained(tmp_path_factory.mktemp("together") / "run", 2, 3)


def test_two_processes_compute_the_gradient_of_one(one, two):
    """The same rollouts, since each row has its own random numbers, split between them."""
    gradients = [process["gradient"] for process in two]
    assert one["gradient"].norm() > 1e-3
    for gradient in gradients:
        assert relative(gradient, one["gradient"]) < 1e-5
    first = one["metrics"][0]
    for key, value in two[0]["metrics"][0].items():
        assert value == pytest.approx(first[key], rel=1e-3, abs=1e-5, nan_ok=True), key


def test_two_processes_stay_the_same_process(two):
    """After several steps: weights, buffers, generators, advantages and metrics, to the last bit,
    though they started from other weights."""
    ours, theirs = two
    assert all(torch.equal(a, b) for a, b in zip(ours["weights"], theirs["weights"], strict=True))
    for key in ("problems", "advantages", "texts", "updates"):
        assert ours[key] == theirs[key], key
    assert [repr(row) for row in ours["metrics"]] == [repr(row) for row in theirs["metrics"]]


UNEVEN = {
    # Updates in which one has nothing to do.
    "fewer rows than processes": dict(batch_size=1, n_attempts=1, minibatches=16),
    "other numbers of parts": dict(
        batch_size=3, n_attempts=3, minibatches=5, microbatch_tokens=40, rollout_rows=4
    ),
}


@pytest.mark.parametrize("changes", UNEVEN.values(), ids=UNEVEN)
def test_uneven_work_neither_hangs_nor_differs(tmp_path, changes):
    (alone,) = trained(tmp_path / "one", 1, 1, **changes)
    ours, theirs = trained(tmp_path / "two", 2, 1, **changes)
    assert relative(ours["gradient"], alone["gradient"]) < 1e-5
    assert ours["updates"] == theirs["updates"] == alone["updates"] > 1
    assert all(torch.equal(a, b) for a, b in zip(ours["weights"], theirs["weights"], strict=True))


# ---------------------------------------------------------------- weights that are shared out


@pytest.fixture(scope="module", params=[2, 4])
def sharing(request, tmp_path_factory) -> list[dict]:
    folder = tmp_path_factory.mktemp("sharing") / "run"
    return trained(folder, request.param, 2, shard="true")


def test_processes_that_share_weights_out_compute_the_gradient_of_one(one, sharing):
    first, *others = sharing
    assert relative(first["gradient"], one["gradient"]) < 1e-5
    for key, value in first["metrics"][0].items():
        assert value == pytest.approx(one["metrics"][0][key], rel=1e-3, abs=1e-5, nan_ok=True), key
    for other in others:
        for key in ("problems", "advantages", "texts", "updates"):
            assert other[key] == first[key], key
        assert [repr(row) for row in other["metrics"]] == [repr(row) for row in first["metrics"]]


def test_each_has_its_part_in_memory(one, sharing):
    """Weights and moments, of 12 bytes a number. A weight is cut between rows, so that a process may have
    a row more than its part."""
    for process in sharing:
        assert 0.9 < process["bytes"] * len(sharing) / one["bytes"] < 1.1


@pytest.mark.parametrize("changes", UNEVEN.values(), ids=UNEVEN)
def test_uneven_work_and_shared_weights(tmp_path, changes):
    (alone,) = trained(tmp_path / "one", 1, 1, **changes)
    ours, theirs = trained(tmp_path / "two", 2, 1, **changes, shard="true")
    assert relative(ours["gradient"], alone["gradient"]) < 1e-5
    assert ours["updates"] == theirs["updates"] == alone["updates"] > 1


def sharded(folder: Path, steps: int, *flags: str) -> Path:
    """A run of two processes that share the weights of a chat model out, to this step; or one that goes
    on."""
    again = ["--resume"] if (folder / "run").exists() else []
    settings = [
        "--shard", "--model", str(folder.parent / "model"), "--run-dir", "run", "--batch-size", "2", "--max-prime",
        "13", "--max-answer-tokens", "5", "--max-proposal-tokens", "6", "--microbatch-tokens", "3000", "--lr", "1e-3",
        "--eval-every", "2", "--checkpoint-every", "2", "--eval-problems", "2", *flags,
    ]  # fmt: skip
    result = subprocess.run(
        [*TORCHRUN, "2", str(ROOT / "model" / "train.py"), *settings, "--total-steps", str(steps), *again],
        cwd=folder, env=ENVIRONMENT, capture_output=True, text=True,
    )  # fmt: skip
    assert result.returncode == 0, result.stderr
    return folder / "run"


@pytest.mark.parametrize("precision", ["float32", "bfloat16"])
def test_a_run_with_shared_weights_is_resumed_to_the_bit(tmp_path, precision):
    """Its checkpoint is one that transformers loads, with all weights in it."""
    save_model(tmp_path / "model")
    (tmp_path / "whole").mkdir(), (tmp_path / "halves").mkdir()
    whole = sharded(tmp_path / "whole", 4, "--precision", precision)
    for steps in (2, 4):
        halves = sharded(tmp_path / "halves", steps, "--precision", precision)
    name = "checkpoints/step_000004/model.safetensors"
    assert (whole / name).read_bytes() == (halves / name).read_bytes()
    kept, begun = load_file(whole / name), load_file(tmp_path / "model" / "model.safetensors")
    assert {key: value.shape for key, value in kept.items()} == {
        key: value.shape for key, value in begun.items()
    }
    assert not all(torch.equal(kept[key], begun[key]) for key in kept)
    rows = [[untimed(row) for row in logged(folder)] for folder in (whole.parent, halves.parent)]
    assert repr(rows[0]) == repr(rows[1])


def test_shared_weights_in_one_process_are_refused(tmp_path):
    flags = ["--shard", "--model", "tiny", "--run-dir", "run"]
    result = subprocess.run(
        [sys.executable, str(ROOT / "model" / "train.py"), *flags],
        cwd=tmp_path, env=ENVIRONMENT, capture_output=True, text=True,
    )  # fmt: skip
    assert result.returncode == 2 and result.stderr.startswith(
        "--shard: must run in several processes"
    )
    assert not (tmp_path / "run").exists()


# ---------------------------------------------------------------- the command


def start(tmp_path: Path, *launcher: str) -> subprocess.Popen:
    """A long run of `train.py` that has taken a few steps."""
    process = subprocess.Popen(
        [
            *launcher, str(ROOT / "model" / "train.py"), "--model", "tiny", "--run-dir", "run",
            "--max-prime", "13", "--batch-size", "8", "--warm-start-steps", "5",
            "--total-steps", "100000", "--eval-every", "50", "--no-eval-uniform",
        ],
        cwd=tmp_path, env=ENVIRONMENT, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True,
    )  # fmt: skip
    while len(logged(tmp_path)) < 4:
        assert process.poll() is None, process.communicate()[0]
        time.sleep(0.1)
    return process


def logged(tmp_path: Path) -> list[dict]:
    path = tmp_path / "run" / "metrics.jsonl"
    if not path.exists():
        return []
    return [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()]


def children(pid: int) -> dict[int, int]:
    """The processes that torchrun started, by rank."""
    found = {}
    for folder in Path("/proc").iterdir():
        try:
            parent = int((folder / "stat").read_text().rpartition(")")[2].split()[1])
            variables = (folder / "environ").read_bytes().split(b"\0")
        except (OSError, ValueError):
            continue  # no process, or one that has just ended
        ranks = [one.split(b"=")[1] for one in variables if one.startswith(b"RANK=")]
        if parent == pid and ranks:
            found[int(ranks[0])] = int(folder.name)
    return found


def assert_whole(tmp_path: Path) -> None:
    """The run directory is that of a finished run: a checkpoint of its last step, and plots."""
    steps = [row["step"] for row in logged(tmp_path)]
    assert steps == list(range(len(steps)))
    latest = (tmp_path / "run" / "checkpoints" / "latest").read_text().strip()
    assert latest == f"step_{steps[-1]:06d}"
    assert (tmp_path / "run" / "plots" / "accuracy.png").exists()


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_a_stop_signal_ends_a_run_after_its_step(tmp_path, number):
    process = start(tmp_path, sys.executable)
    process.send_signal(number)
    output, _ = process.communicate()
    assert process.returncode == 128 + number, output
    assert_whole(tmp_path)


def test_the_second_signal_ends_a_run_at_once(tmp_path):
    """Both arrive in the same step, while the process is halted; the second one is what ends it."""
    process = start(tmp_path, sys.executable)
    for number in (signal.SIGSTOP, signal.SIGINT, signal.SIGTERM, signal.SIGCONT):
        process.send_signal(number)
    process.communicate()
    assert process.returncode == -signal.SIGTERM


@pytest.mark.skipif(not Path("/proc").exists(), reason="finds torchrun's processes through /proc")
@pytest.mark.parametrize("rank", [0, 1])
def test_a_stop_signal_to_one_process_reaches_both(tmp_path, rank):
    """One writer: the run directory is as one process leaves it."""
    launcher = start(tmp_path, *TORCHRUN, "2")
    workers = children(launcher.pid)
    assert sorted(workers) == [0, 1]
    os.kill(workers[rank], signal.SIGTERM)
    output, _ = launcher.communicate()
    assert not any(Path(f"/proc/{pid}").exists() for pid in workers.values())
    assert f"exitcode  : {128 + signal.SIGTERM}" in output
    assert_whole(tmp_path)
    assert output.count("  step accuracy   abd") == 1
