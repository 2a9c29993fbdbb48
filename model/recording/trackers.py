"""Curves in what people already watch, beside `metrics.jsonl`, when asked for: Weights & Biases, TensorBoard,
trackio.

For each of them another process, `follower.py`, follows `metrics.jsonl` and hands each row on, so that a
tracker can neither stop nor delay a run, whatever it waits for, raises or crashes on.
"""

import json
import os
import secrets
import signal
import subprocess
import sys
import time
from collections.abc import Mapping
from pathlib import Path

from model.args import ArgumentError, AZRArgs
from utils.packages import package_folder
from utils.text import one_line

TRACKERS = "wandb", "tensorboard", "trackio"  # flags, and the packages that they need
PATIENCE = 20  # seconds that the end of a run waits for all of them
FOLLOWER = Path(__file__).with_name("follower.py")
LOG = "{}.log"  # in the run directory: what the process of a tracker prints
APPENDED = ("wandb",)  # cannot take back what they have: a run that goes on appends to it
SHOWN_BY_ID = ("trackio",)  # has no other name for a run
LONGEST = 500  # characters of what a tracker says


def require_packages(args: AZRArgs) -> None:
    """Raise ArgumentError where the package of a tracker is missing that is asked for."""
    for name in _asked_for(args):
        if package_folder(name) is None:
            raise ArgumentError(f"--{name}: needs the package {name}; pip install {name}")


def _asked_for(args: AZRArgs) -> list[str]:
    return [name for name in TRACKERS if getattr(args, name)]


class Trackers:
    """Have a run's `metrics.jsonl` logged to each tracker that is asked for: all of it, or where the
    tracker cannot take back what it has, what comes after `position`, whose first row is of step `first`.

    ids: of the runs to continue, by tracker; new ones by default. The attribute `ids` has these and the
    new ones. The trackers' own environment variables decide where they are set.
    """

    def __init__(
        self, args: AZRArgs, run_dir: Path, position: int, first: int, ids: Mapping[str, str]
    ):
        self.ids = dict(ids)
        self._run_dir = run_dir
        self._processes: dict[str, subprocess.Popen] = {}
        for name in _asked_for(args):
            chosen = os.environ.get(f"{name.upper()}_RUN_ID") or ids.get(name)
            id = chosen or self._new_id(name)
            order = dict(name=name, run_dir=str(run_dir), id=id, known=id == ids.get(name))
            order |= dict(position=0, first=0, config=args.as_dict())
            if order["known"] and name in APPENDED:
                order |= dict(position=position, first=first)
            try:
                # A file, because whoever reads the run's output may wait until all who write it have ended.
                with open(run_dir / LOG.format(name), "w") as said:
                    # A new session: Ctrl-C is for the run, which then tells that process to end.
                    self._processes[name] = subprocess.Popen(
                        [sys.executable, str(FOLLOWER), json.dumps(order)],
                        stdin=subprocess.PIPE, stdout=said, stderr=said, start_new_session=True,
                    )  # fmt: skip
            except OSError as error:
                say(name, f"cannot be started ({error})")
            else:
                self.ids[name] = id

    def _new_id(self, name: str) -> str:
        own = secrets.token_hex(4)
        return f"{self._run_dir.resolve().name}-{own}" if name in SHOWN_BY_ID else own

    def release(self) -> None:
        """The log is complete: let the trackers finish."""
        for process in self._processes.values():
            assert process.stdin is not None  # a pipe
            process.stdin.close()

    def wait(self) -> None:
        """For the end of each that was released, or, if they take long, leave them to themselves. Prints
        what each said last."""
        end = time.monotonic() + PATIENCE
        for name, process in self._processes.items():
            try:
                process.wait(max(0.0, end - time.monotonic()))
            except subprocess.TimeoutExpired:
                say(name, f"is still busy after {PATIENCE} s and goes on in process {process.pid}")
            if (last := self._last_line(name)) is not None:
                print(last, file=sys.stderr, flush=True)
            elif process.returncode:
                say(name, f"ended early ({_status(process.returncode)})")

    def _last_line(self, name: str) -> str | None:
        """Of what a tracker printed: its own sentence about a failure is the last."""
        said = self._run_dir / LOG.format(name)
        if not said.exists():
            return None
        lines = said.read_text(encoding="utf-8", errors="replace").strip().splitlines()
        return one_line(lines[-1], LONGEST) if lines else None


def say(name: str, what: str) -> None:
    """Print one line about a tracker."""
    print(
        f"{name} {one_line(what, LONGEST)}; metrics.jsonl is complete", file=sys.stderr, flush=True
    )


def _status(code: int) -> str:
    return f"exit status {code}" if code > 0 else signal.strsignal(-code) or f"signal {-code}"
