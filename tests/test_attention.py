"""Which attention kernels are allowed. Oracle: torch's own flag, in a real process of each command that
runs a model, before and after."""

import subprocess
import sys

import pytest

from constants import ROOT

# The commands end soon, because the model that they are asked for is no model.
SAYS = """
import sys, torch
from torch.backends.cuda import cudnn_sdp_enabled, flash_sdp_enabled, mem_efficient_sdp_enabled
from {module} import main
before = cudnn_sdp_enabled()
status = main({words})
print(before, cudnn_sdp_enabled(), flash_sdp_enabled(), mem_efficient_sdp_enabled(), status)
"""


@pytest.mark.slow
@pytest.mark.parametrize("module", ["model.train", "model.eval.baselines"])
def test_the_commands_that_run_a_model_do_without_cudnn(tmp_path, module):
    words = ["--model", str(tmp_path)]
    words += ["--run-dir", str(tmp_path / "run")] if module == "model.train" else []
    done = subprocess.run(
        [sys.executable, "-c", SAYS.format(module=module, words=words)],
        cwd=ROOT,
        capture_output=True,
        text=True,
    )
    assert done.stdout.split() == ["True", "False", "True", "True", "2"], done.stderr
