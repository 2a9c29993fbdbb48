"""What a command's environment says at the moment in which it first asks for torch."""

import os
import subprocess
import sys
from collections.abc import Collection
from pathlib import Path

SAYS = """
import builtins, os, runpy, sys
real = builtins.__import__
def watched(name, *rest, **more):
    if name == "torch":
        print("before torch:", os.environ.get(variable), flush=True)
        os._exit(0)
    return real(name, *rest, **more)
builtins.__import__ = watched
variable = sys.argv[2]
sys.argv = [sys.argv[1], "--help"]
runpy.run_path(sys.argv[0], run_name="__main__")
"""


def without(names: Collection[str]) -> dict[str, str]:
    """This process's environment without these variables."""
    return {name: value for name, value in os.environ.items() if name not in names}


def said_at_torch(command: Path, variable: str, unset: Collection[str]) -> str:
    """What a process of a command prints that ends at that moment: the value of a variable, where `unset`
    were not given."""
    script = [sys.executable, "-c", SAYS, str(command), variable]
    done = subprocess.run(script, capture_output=True, text=True, env=without(unset))
    return done.stdout.strip()
