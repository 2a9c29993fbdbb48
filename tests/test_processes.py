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


def trained(
    folder: Path, processes: int, runs: dict[str, tuple[int, dict]]
) -> dict[str, list[dict]]:
    """What each process leaves behind of each run, of so many steps and with these arguments."""
    folder.mkdir()
    program = [str(ROOT / "tests" / "helpers" / "one_of_several.py"), str(folder), json.dumps(runs)]
    launcher = [*TORCHRUN, str(processes)] if processes > 1 else [sys.executable]
    result = subprocess.run([*launcher, *program], env=ENVIRONMENT, capture_output=True, text=True)
    assert result.returncode == 0, result.stderr
    return {
        name: [torch.load(folder / f"{name}.{rank}.pt") for rank in range(processes)]
        for name in runs
    }


UNEVEN = {
    # Updates in which one has nothing to do.
    "fewer rows than processes": dict(batch_size=1, n_attempts=1, minibatches=16),
    "other numbers of parts": dict(
        batch_size=3, n_attempts=3, minibatches=5, microbatch_tokens=40, rollout_rows=4
    ),
}
USUAL = "usual"


def runs(steps: int, **changes) -> dict[str, tuple[int, dict]]:
    """A usual one of so many steps, and a step of uneven work of each kind."""
    uneven = {name: (1, different | changes) for name, different in UNEVEN.items()}
    return {USUAL: (steps, changes), **uneven}


@pytest.fixture(scope="module")
def alone(tmp_path_factory) -> dict[str, dict]:
    found = trained(tmp_path_factory.mktemp("alone") / "runs", 1, runs(1))
    return {name: processes[0] for name, processes in found.items()}


@pytest.fixture(scope="module")
def one(alone) -> dict:
    return alone[USUAL]


@pytest.fixture(scope="module")
def together(tmp_path_factory) -> dict[str, list[dict]]:
    return trained(tmp_path_factory.mktemp("together") / "runs", 2, runs(3))


@pytest.fixture(scope="module")
def two(together) -> list[dict]:
    return together[USUAL]


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


@pytest.mark.parametrize("name", UNEVEN)
def test_uneven_work_neither_hangs_nor_differs(alone, together, name):
    ours, theirs = together[name]
    assert relative(ours["gradient"], alone[name]["gradient"]) < 1e-5
    assert ours["updates"] == theirs["updates"] == alone[name]["updates"] > 1
    assert all(torch.equal(a, b) for a, b in zip(ours["weights"], theirs["weights"], strict=True))


# ---------------------------------------------------------------- weights that are shared out


@pytest.fixture(scope="module", params=[2, 4])
def shared_out(request, tmp_path_factory) -> dict[str, list[dict]]:
    folder = tmp_path_factory.mktemp("sharing") / "runs"
    return trained(folder, request.param, runs(2, shard=True))


@pytest.fixture(scope="module")
def sharing(shared_out) -> list[dict]:
    return shared_out[USUAL]


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


@pytest.mark.parametrize("name", UNEVEN)
def test_uneven_work_and_shared_weights(alone, shared_out, name):
    first, *others = shared_out[name]
    assert relative(first["gradient"], alone[name]["gradient"]) < 1e-5
    for other in others:
        assert other["updates"] == first["updates"] == alone[name]["updates"] > 1


def sharded(folder: Path, *flags: str) -> Path:
    """A run of two processes that share the weights of a chat model out."""
    settings = [
        "--shard", "--model", "model", "--run-dir", "run", "--batch-size", "2", "--max-prime", "13",
        "--max-answer-tokens", "5", "--max-proposal-tokens", "6", "--microbatch-tokens", "3000", "--lr", "1e-3",
        "--eval-every", "2", "--checkpoint-every", "2", "--eval-problems", "2", "--total-steps", "4", *flags,
    ]  # fmt: skip
    result = subprocess.run(
        [*TORCHRUN, "2", str(ROOT / "model" / "train.py"), *settings],
        cwd=folder, env=ENVIRONMENT, capture_output=True, text=True,
    )  # fmt: skip
    assert result.returncode == 0, result.stderr
    return folder / "run"


@pytest.mark.parametrize("precision", ["float32", "bfloat16"])
def test_a_run_with_shared_weights_is_resumed_to_the_bit(tmp_path, precision):
    """From the middle, in new processes, it comes to the same end. Its checkpoint is one that transformers
    loads, with all weights in it."""
    save_model(tmp_path / "model")
    flags = "--precision", precision
    weights = sharded(tmp_path, *flags) / "checkpoints" / "step_000004" / "model.safetensors"
    first, rows = weights.read_bytes(), [untimed(row) for row in logged(tmp_path)]
    written = weights.stat().st_mtime_ns
    sharded(tmp_path, *flags, "--resume", "run/checkpoints/step_000002")
    assert weights.stat().st_mtime_ns > written and weights.read_bytes() == first
    assert repr([untimed(row) for row in logged(tmp_path)]) == repr(rows) and len(rows) == 5
    kept, begun = load_file(weights), load_file(tmp_path / "model" / "model.safetensors")
    assert {key: value.shape for key, value in kept.items()} == {
        key: value.shape for key, value in begun.items()
    }
    assert not all(torch.equal(kept[key], begun[key]) for key in kept)


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
