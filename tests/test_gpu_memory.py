"""What a GPU's memory is measured by, and how its allocator is told to extend its pieces. Oracles: the
environment of real processes; what torch says that it was told; counts by hand."""

import subprocess
import sys

import pytest
import torch
from helpers.at_torch import said_at_torch, without

from constants import ROOT
from utils.allocator import ALLOCATOR_NAMES, expand_segments
from utils.gpu_memory import GIB, memory_metrics

EXTENDED = "expandable_segments:True"


def said(*code: str, **given: str) -> str:
    """What a Python process prints whose environment says nothing of the allocator but what is given."""
    environment = without(ALLOCATOR_NAMES)
    done = subprocess.run(
        [sys.executable, "-c", *code],
        capture_output=True, text=True, env=environment | given, cwd=ROOT, check=True,
    )  # fmt: skip
    return done.stdout.strip()


@pytest.mark.parametrize("name", ALLOCATOR_NAMES)
def test_what_the_user_decided_stays(name):
    for value in ("max_split_size_mb:64", ""):
        environment = {name: value}
        expand_segments(environment)
        assert environment == {name: value}


@pytest.mark.parametrize("command", ["model/train.py", "model/eval/baselines.py"])
def test_it_is_set_before_torch_loads(command):
    """A process that ends at the moment in which it first asks for torch, and says what is set then."""
    found = said_at_torch(ROOT / command, "PYTORCH_ALLOC_CONF", ALLOCATOR_NAMES)
    assert found == f"before torch: {EXTENDED}"


@pytest.mark.skipif(
    not hasattr(torch._C, "_accelerator_getAllocatorSettings"),
    reason="this torch does not say how its allocator was told to work",
)
def test_torch_has_read_it():
    ask = "import model.args, torch; print(torch._C._accelerator_getAllocatorSettings())"
    assert said(ask) == EXTENDED
    for name in ("PYTORCH_CUDA_ALLOC_CONF", "PYTORCH_ALLOC_CONF"):  # the user's, by either name
        assert said(ask, **{name: "max_split_size_mb:64"}) == "max_split_size_mb:64"


def test_a_device_that_is_no_gpu_has_no_such_metrics():
    assert memory_metrics(torch.device("cpu")) == {}


def test_metrics_of_a_gpu_by_hand(monkeypatch):
    """Mocks: what torch says on a GPU, with 2.5 GiB of tensors, 3 GiB reserved and 4 retries, and that
    it was told to count anew."""
    stats = {"num_alloc_retries": 4, "allocated_bytes.all.current": 7}
    stats |= {"allocated_bytes.all.peak": 5 * GIB // 2, "reserved_bytes.all.peak": 3 * GIB}
    begun = []
    monkeypatch.setattr("torch.cuda.memory_stats", lambda device: stats)
    for name in ("peak", "accumulated"):
        monkeypatch.setattr(
            f"torch.cuda.reset_{name}_memory_stats", lambda device, name=name: begun.append(name)
        )
    assert memory_metrics(torch.device("cuda")) == {
        "memory/allocated_max": 2.5, "memory/reserved_max": 3.0, "memory/alloc_retries": 4.0,
    }  # fmt: skip
    assert begun == ["peak", "accumulated"]
    page = (ROOT / "model" / "run" / "README.md").read_text(encoding="utf-8")
    assert all(f"| `{key}` |" in page for key in memory_metrics(torch.device("cuda")))


@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU")
def test_a_gpu_is_measured_and_counted_anew():
    """A tensor of 1 GiB is in the row of its time and not in the next."""
    device = torch.device("cuda")
    memory_metrics(device)
    before = torch.cuda.memory_allocated(device) / GIB
    tensor = torch.empty(GIB, dtype=torch.uint8, device=device)
    del tensor
    found, later = memory_metrics(device), memory_metrics(device)
    assert found["memory/allocated_max"] - before == pytest.approx(1, abs=0.01)
    assert later["memory/allocated_max"] - before == pytest.approx(0, abs=0.01)
    assert found["memory/reserved_max"] >= found["memory/allocated_max"]
