"""How the threads of one matrix product wait for each other. Loads no torch: it must run before that.

GNU's OpenMP, which torch uses on Linux, has a thread that waits look for work for milliseconds on end
before it sleeps. On a machine with nothing else to do that saves the waking; beside other work, the one
thread that waits takes the core from the one it waits for.
"""

import os
from collections.abc import MutableMapping

SPINS = "1000"  # looks before a thread sleeps; measured by tests/benchmarks/neighbours.py
CHOSEN = ("GOMP_SPINCOUNT", "OMP_WAIT_POLICY")  # what a user may have decided


def spare_neighbours(environment: MutableMapping[str, str] = os.environ) -> None:
    """Let threads sleep soon, unless the environment says how they wait. Without effect once torch is
    loaded."""
    if not any(name in environment for name in CHOSEN):
        environment["GOMP_SPINCOUNT"] = SPINS
