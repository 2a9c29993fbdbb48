"""Curves in what people already watch, beside `metrics.jsonl`, when asked for: Weights & Biases, TensorBoard,
trackio.

For each of them another process, `follower.py`, follows `metrics.jsonl` and hands each row on, so that a
tracker can neither stop nor delay a run, whatever it waits for, raises or crashes on.
"""

import json
import os
import secrets
import subprocess
import sys
import time
from collections.abc import Mapping
from pathlib import Path

from model.args import ArgumentError, AZRArgs
from utils.packages import package_folder

TRACKERS = "wandb", "tensorboard", "trackio"  # flags, and the packages that they need
PATIENCE = 20  # seconds that the end of a run waits for all of them
FOLLOWER = Path(__file__).with_name("follower.py")
LOG = "{}.log"  # in the run directory: what the process of a tracker prints


def require_packages(args: AZRArgs) -> None:
    """Raise ArgumentError where the package of a tracker is missing that is asked for."""
    for name in _asked_for(args):
        if package_folder(name) is None:
            raise ArgumentError(f"--{name}: needs the package {name}; pip install {name}")


def _asked_for(args: AZRArgs) -> list[str]:
    return [name for name in TRACKERS if getattr(args, name)]


class Trackers:
    """Have what comes after `position` in a run's `metrics.jsonl` logged to each tracker that is asked
    for. first: the step of its first row.

    ids: of the runs to continue, by tracker; new ones by default. The attribute `ids` has those that are
    logged to. The trackers' own environment variables decide where they are set.
    """

    def __init__(
        self, args: AZRArgs, run_dir: Path, position: int, first: int, ids: Mapping[str, str]
    ):
        self.ids: dict[str, str] = {}
        self._run_dir = run_dir
        self._processes: dict[str, subprocess.Popen] = {}
        for name in _asked_for(args):
            chosen = os.environ.get(f"{name.upper()}_RUN_ID") or ids.get(name)
            id = chosen or secrets.token_hex(4)
            order = {"name": name, "run_dir": str(run_dir), "position": position, "first": first}
            argv = json.dumps(order | {"id": id, "config": args.as_dict()})
            try:
                # A file, because whoever reads the run's output may wait until all who write it have ended.
                with open(run_dir / LOG.format(name), "w") as said:
                    # A new session: Ctrl-C is for the run, which then tells that process to end.
                    self._processes[name] = subprocess.Popen(
                        [sys.executable, str(FOLLOWER), argv],
                        stdin=subprocess.PIPE, stdout=said, stderr=said, start_new_session=True,
                    )  # fmt: skip
            except OSError as error:
                say(name, f"cannot be started ({error})")
            else:
                self.ids[name] = id

    def close(self) -> None:
        """The log is complete: let the trackers finish, by themselves if they take long. Prints what each
        said last."""
        for process in self._processes.values():
            assert process.stdin is not None  # a pipe
            process.stdin.close()
        end = time.monotonic() + PATIENCE
        for name, process in self._processes.items():
            try:
                process.wait(max(0.0, end - time.monotonic()))
            except subprocess.TimeoutExpired:
                say(name, f"is still busy after {PATIENCE} s and goes on in process {process.pid}")
            said = self._run_dir / LOG.format(name)
            if said.exists():
                lines = said.read_text(encoding="utf-8", errors="replace").strip().splitlines()
                if lines:
                    print(lines[-1], file=sys.stderr, flush=True)


def say(name: str, what: str) -> None:
    """Print one line about a tracker."""
    print(f"{name} {what}; metrics.jsonl is complete", file=sys.stderr, flush=True)
