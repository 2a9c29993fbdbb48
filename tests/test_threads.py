"""How threads wait. Oracles: the environment of a real process, what a library read when it was loaded."""

import os
import subprocess
import sys

import pytest

from constants import ROOT
from utils.threads import spare_neighbours


def test_what_the_user_decided_stays():
    for given in ({"GOMP_SPINCOUNT": "5"}, {"OMP_WAIT_POLICY": "active"}, {"GOMP_SPINCOUNT": ""}):
        environment = dict(given)
        spare_neighbours(environment)
        assert environment == given
    environment = {}
    spare_neighbours(environment)
    assert environment == {"GOMP_SPINCOUNT": "1000"}


COMMANDS = ["model/train.py", "model/eval/baselines.py", "model/eval/collapse.py"]
SAYS = """
import builtins, os, runpy, sys
real = builtins.__import__
def watched(name, *rest, **more):
    if name == "torch":
        print("before torch:", os.environ.get("GOMP_SPINCOUNT"))
        os._exit(0)
    return real(name, *rest, **more)
builtins.__import__ = watched
sys.argv = [sys.argv[1], "--help"]
runpy.run_path(sys.argv[0], run_name="__main__")
"""


@pytest.mark.parametrize("command", COMMANDS)
def test_it_is_set_before_torch_loads(command):
    """A process that ends at the moment in which it first asks for torch, and says what is set then."""
    environment = {name: v for name, v in os.environ.items() if name not in ("GOMP_SPINCOUNT", "OMP_WAIT_POLICY")}  # fmt: skip
    script = [sys.executable, "-c", SAYS, str(ROOT / command)]
    said = subprocess.run(script, capture_output=True, text=True, env=environment).stdout
    assert said.strip() == "before torch: 1000"


def test_a_script_that_imports_the_rooms_has_it_too():
    """Whoever imports a room of `model` before torch."""
    environment = {name: v for name, v in os.environ.items() if name not in ("GOMP_SPINCOUNT", "OMP_WAIT_POLICY")}  # fmt: skip
    code = "import os, model.args; print(os.environ['GOMP_SPINCOUNT'])"
    said = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, env=environment, cwd=ROOT
    ).stdout
    assert said.strip() == "1000"
