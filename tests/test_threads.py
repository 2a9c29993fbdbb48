"""How threads wait. Oracles: the environment of a real process, what a library read when it was loaded."""

import subprocess
import sys

import pytest
from helpers.at_torch import said_at_torch, without

from constants import ROOT
from utils.threads import CHOSEN, spare_neighbours


def test_what_the_user_decided_stays():
    for given in ({"GOMP_SPINCOUNT": "5"}, {"OMP_WAIT_POLICY": "active"}, {"GOMP_SPINCOUNT": ""}):
        environment = dict(given)
        spare_neighbours(environment)
        assert environment == given
    environment = {}
    spare_neighbours(environment)
    assert environment == {"GOMP_SPINCOUNT": "1000"}


COMMANDS = ["model/train.py", "model/eval/baselines.py", "model/eval/collapse.py"]


@pytest.mark.parametrize("command", COMMANDS)
def test_it_is_set_before_torch_loads(command):
    """A process that ends at the moment in which it first asks for torch, and says what is set then."""
    assert said_at_torch(ROOT / command, "GOMP_SPINCOUNT", CHOSEN) == "before torch: 1000"


def test_a_script_that_imports_the_rooms_has_it_too():
    """Whoever imports a room of `model` before torch."""
    environment = without(CHOSEN)
    code = "import os, model.args; print(os.environ['GOMP_SPINCOUNT'])"
    said = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, env=environment, cwd=ROOT
    ).stdout
    assert said.strip() == "1000"
