"""Where a policy runs. Oracles: a table by hand, what accelerate takes in a process of its own, files of real
runs."""

import json
import subprocess
import sys

import pytest
import torch
from test_cli import rows

from constants import CUDA_MODEL, ROOT
from model import play, train
from model.args import ArgumentError, AZRArgs, parse_args
from model.eval import baselines, finished
from model.eval.baselines import BaselineArgs
from model.play import PlayArgs
from model.policy.device import device_kind, found_devices
from utils.precision import precision_on

needs_no_gpu = pytest.mark.skipif(
    torch.cuda.is_available() or torch.backends.mps.is_available(), reason="needs a plain CPU"
)


@pytest.mark.parametrize(
    ("cuda", "mps", "language", "wanted", "kind"),
    [
        (False, False, "chat", "auto", "cpu"),
        (True, False, "chat", "auto", "cuda"),
        (True, False, "compact", "auto", "cpu"),
        (True, False, "scratchpad", "auto", "cpu"),
        (True, False, "compact", "cuda", "cuda"),
        (True, False, "chat", "cpu", "cpu"),
        (False, True, "chat", "auto", "cpu"),
        (False, True, "dialogue", "mps", "mps"),
        (False, False, "chat", "cuda", None),
        (True, False, "chat", "mps", None),
        (False, True, "compact", "cuda", None),
    ],
)
def test_what_is_taken(monkeypatch, cuda, mps, language, wanted, kind):
    """Mocks: what torch says that the machine has."""
    monkeypatch.setattr("torch.cuda.is_available", lambda: cuda)
    monkeypatch.setattr("torch.backends.mps.is_available", lambda: mps)
    if kind is not None:
        assert device_kind(wanted, language) == kind
        return
    with pytest.raises(ArgumentError, match=f"^--device {wanted}: must be .* is cpu") as caught:
        device_kind(wanted, language)
    assert str(caught.value).endswith(" or ".join(found_devices()))


def test_an_apple_gpu_gets_float32():
    assert precision_on("mps", "auto", is_small=False) == "float32"
    with pytest.raises(ArgumentError, match="^--device mps --precision bfloat16: must have"):
        AZRArgs(device="mps", precision="bfloat16")


def test_a_gpu_that_is_not_used_decides_no_model():
    assert parse_args(["--device", "cpu"], gpu_memory=79.0).model == "tiny"
    assert parse_args(["--device", "mps"], gpu_memory=79.0).model == "tiny"
    for device in ("auto", "cuda"):
        assert parse_args(["--device", device], gpu_memory=79.0).model == CUDA_MODEL
    assert parse_args(["--device", "cpu", "--plan"], gpu_memory=79.0).model == CUDA_MODEL


ACCELERATE = """
import json, os, sys
sys.path[:0] = [sys.argv[1]]
import accelerate.state, torch
from model.args import AZRArgs
from model.train import ArgumentError, _accelerator

def said(cuda, mps, kind, environment):
    os.environ |= environment
    torch.cuda.is_available = lambda: cuda
    torch.backends.mps.is_available = torch.backends.mps.is_built = lambda: mps
    accelerate.state.is_mps_available = lambda *_: mps
    accelerate.state.check_cuda_p2p_ib_support = lambda: True
    try:
        return _accelerator(AZRArgs(device=kind), kind, "float32").device.type
    except ArgumentError as error:
        return error

for case in json.loads(sys.argv[2]):
    if os.fork() == 0:
        print(said(*case), flush=True)
        os._exit(0)
    os.wait()
"""
TAKEN = [
    ((True, False, "cpu", {}), "cpu"),
    ((True, False, "cuda", {}), "cuda"),
    ((False, True, "cpu", {}), "cpu"),
    ((False, True, "mps", {}), "mps"),
    ((True, False, "cuda", {"ACCELERATE_USE_CPU": "true"}), "--device cuda: must be cpu, which "),
    ((False, True, "mps", {"WORLD_SIZE": "2"}), "--device mps: must run in one process"),
]


@needs_no_gpu
def test_accelerate_takes_what_is_asked_for():
    """Each in a process of its own, since accelerate decides once. Mocks: what torch says that there is (cuda,
    mps); nothing is put on a device."""
    cases = json.dumps([case for case, _ in TAKEN])
    found = subprocess.run(
        [sys.executable, "-c", ACCELERATE, str(ROOT), cases], capture_output=True, text=True, env={"PATH": ""}
    )  # fmt: skip
    lines = found.stdout.splitlines()
    assert len(lines) == len(TAKEN), found.stdout + found.stderr
    for (case, wanted), line in zip(TAKEN, lines, strict=True):
        assert line.startswith(wanted), case


@needs_no_gpu
@pytest.mark.parametrize("device", ["cuda", "mps"])
@pytest.mark.parametrize("program", [train, baselines, play])
def test_a_device_that_is_not_there_is_one_sentence(device, program, tmp_path, monkeypatch, capsys):
    """Before any model loads and any folder is made: a mock sees no policy asked for."""
    monkeypatch.chdir(tmp_path)
    for module in (train, finished):
        monkeypatch.setattr(module, "load_policy", None)
    argv = ["tiny"] if program is play else []
    assert program.main([*argv, "--device", device]) == 2
    said = capsys.readouterr()
    assert said.out == "" and list(tmp_path.iterdir()) == []
    sentence = f"--device {device}: must be a device that torch finds here, which is cpu\n"
    assert said.err == sentence


@pytest.mark.slow
def test_several_processes_run_where_they_are_told(tmp_path):
    """On the CPU, by torchrun."""
    argv = [
        str(ROOT / "model" / "train.py"), "--max-prime", "13", "--total-steps", "1", "--batch-size", "8",
        "--n-attempts", "2", "--warm-start-steps", "5", "--quiet", "--device", "cpu", "--run-dir", "run",
    ]  # fmt: skip
    torchrun = ["-m", "torch.distributed.run", "--standalone", "--nproc_per_node", "2"]
    done = subprocess.run(
        [sys.executable, *torchrun, *argv], cwd=tmp_path, capture_output=True, text=True
    )
    assert done.returncode == 0, done.stderr
    config = json.loads((tmp_path / "run" / "config.json").read_text())
    assert config["device"] == "cpu:0" and config["args"]["device"] == "cpu"  # of one machine
    assert [row["step"] for row in rows(tmp_path / "run" / "metrics.jsonl")] == [0, 1]


def test_every_command_that_runs_a_model_has_the_flag():
    for made in (AZRArgs, BaselineArgs, lambda **given: PlayArgs(model=("tiny",), **given)):
        assert made().device == "auto" and made(device="mps").device == "mps"
        with pytest.raises(
            ArgumentError, match="^--device gpu: must be auto or cpu or cuda or mps"
        ):
            made(device="gpu")
