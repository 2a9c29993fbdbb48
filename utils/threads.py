"""How the threads of one matrix product wait for each other. Loads no torch: it must run before that.

GNU's OpenMP, which torch uses on Linux, lets a waiting thread look for work for milliseconds before it
sleeps. That saves waking it up, if the machine has nothing else to do. Beside other work it does harm:
the thread that waits takes the core from the thread that it waits for.
"""

import os
from collections.abc import MutableMapping

SPINS = (
    "1000"  # how often a thread looks before it sleeps; measured by tests/benchmarks/neighbours.py
)
CHOSEN = ("GOMP_SPINCOUNT", "OMP_WAIT_POLICY")  # by which a user may have decided


def spare_neighbours(environment: MutableMapping[str, str] = os.environ) -> None:
    """Let threads sleep soon, unless the environment already says how they wait. Has no effect after
    torch is loaded."""
    if not any(name in environment for name in CHOSEN):
        environment["GOMP_SPINCOUNT"] = SPINS
