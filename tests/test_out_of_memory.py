"""A run that needs more memory than there is. Oracle: a real limit on the process's memory."""

import subprocess
import sys

import pytest

from constants import ROOT
from model.train import is_out_of_memory

resource = pytest.importorskip("resource", reason="limits memory as POSIX systems can")

# The limit is set after the imports, whose own mappings differ between machines.
PROGRAM = """
import resource, sys
sys.path.insert(0, sys.argv.pop(1))
import model.train, model.policy.load, model.trainer
used = int(open("/proc/self/statm").read().split()[0]) * resource.getpagesize()
resource.setrlimit(resource.RLIMIT_AS, (used + 700 * 2**20,) * 2)
sys.exit(model.train.main(sys.argv[1:]))
"""


def limited(tmp_path, *flags: str) -> subprocess.CompletedProcess:
    argv = ["--model", "tiny", "--run-dir", "run", "--warm-start-steps", "1", "--total-steps", "1",
            "--eval-every", "2", "--max-prime", "61", *flags]  # fmt: skip
    return subprocess.run(
        [sys.executable, "-c", PROGRAM, str(ROOT), *argv],
        cwd=tmp_path, capture_output=True, text=True,
    )  # fmt: skip


@pytest.mark.slow
@pytest.mark.skipif(sys.platform != "linux", reason="reads its own size from /proc")
def test_running_out_of_memory_names_the_flags_to_turn(tmp_path):
    """5000 proposals a task at once need over a gigabyte; in slices of 64 rows they do not."""
    large = ["--batch-size", "5000", "--n-attempts", "1"]
    whole = limited(tmp_path, *large, "--rollout-rows", "15000", "--max-answer-tokens", "400")
    assert whole.returncode == 2, whole.stderr
    sentence = whole.stderr.splitlines()[-1]
    assert sentence.startswith("out of memory: lower --rollout-rows 15000 (sampling)")
    assert "--microbatch-tokens 16384 (update)" in sentence and "Traceback" not in whole.stderr


@pytest.mark.parametrize("said", [
    "CUDA out of memory. Tried to allocate 2.00 GiB", "CUDA error: out of memory",
    "CUDA error: CUBLAS_STATUS_ALLOC_FAILED when calling `cublasCreate(handle)`",
    "[enforce fail at alloc_cpu.cpp] DefaultCPUAllocator: can't allocate memory: you tried to",
])  # fmt: skip
def test_libraries_say_it_in_words_of_their_own(said):
    assert is_out_of_memory(RuntimeError(said)) and is_out_of_memory(MemoryError())
    assert not is_out_of_memory(RuntimeError("CUDA error: device-side assert triggered"))
