"""Weights & Biases beside `metrics.jsonl`, when asked for.

Another process, `wandb_follower.py`, follows `metrics.jsonl` and hands each row to wandb, so that a
tracker can neither stop nor delay a run, whatever it waits for, raises or crashes on.
"""

import json
import os
import secrets
import subprocess
import sys
from pathlib import Path

from model.args import AZRArgs

PATIENCE = 20  # seconds that the end of a run waits for wandb
FOLLOWER = Path(__file__).with_name("wandb_follower.py")
SAID = "wandb.log"  # in the run directory: what that process and wandb print


class WandbTracker:
    """Has what comes after `position` in a run's `metrics.jsonl` logged to wandb, offline without a key.
    Does nothing without `--wandb`.

    id: of the wandb run to continue; a new one by default. The attribute `id` is None where nothing is
    logged. wandb's environment variables decide where they are set.
    """

    def __init__(self, args: AZRArgs, run_dir: Path, position: int, id: str | None = None):
        self.id = None
        if not args.wandb:
            return
        self.id = os.environ.get("WANDB_RUN_ID") or id or secrets.token_hex(4)
        order = {"run_dir": str(run_dir), "position": position, "id": self.id}
        argv = [sys.executable, str(FOLLOWER), json.dumps(order | {"config": args.as_dict()})]
        self._said = run_dir / SAID
        try:
            # A file, because whoever reads the run's output may wait until all who write it have ended.
            with open(self._said, "w") as said:
                # A new session: Ctrl-C is for the run, which then tells that process to end.
                self._process = subprocess.Popen(
                    argv, stdin=subprocess.PIPE, stdout=said, stderr=said, start_new_session=True
                )
        except OSError as error:
            say(f"cannot be started ({error})")
            self.id = None

    def close(self) -> None:
        """The log is complete: let wandb finish, by itself if it takes long. Prints what it said last."""
        if self.id is None:
            return
        assert self._process.stdin is not None  # a pipe
        self._process.stdin.close()
        try:
            self._process.wait(PATIENCE)
        except subprocess.TimeoutExpired:
            say(f"is still busy after {PATIENCE} s and goes on in process {self._process.pid}")
        if self._said.exists():
            lines = self._said.read_text(encoding="utf-8", errors="replace").strip().splitlines()
            if lines:
                print(lines[-1], file=sys.stderr, flush=True)


def say(what: str) -> None:
    """Print one line about wandb."""
    print(f"wandb {what}; metrics.jsonl is complete", file=sys.stderr, flush=True)
