"""Weights & Biases beside `metrics.jsonl`, when asked for.

Another process follows `metrics.jsonl` and hands each row to wandb, so that a tracker can neither stop
nor delay a run, whatever it waits for, raises or crashes on. That process runs this file too.
"""

import json
import os
import secrets
import select
import subprocess
import sys
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

if __name__ == "__main__":
    sys.path[0] = str(Path(__file__).resolve().parents[2])  # runs from any folder

from custom_types import TASKS, Role
from model.args import AZRArgs
from model.run.layout import METRICS

PROJECT = "absolute-zero-prime-inversion"
PATIENCE = 20  # seconds that the end of a run waits for wandb
POLL = 0.5  # seconds between two looks at the log
SAID = "wandb.log"  # in the run directory: what that process and wandb print
FIRST = {"eval/accuracy": "0_overview/accuracy"} | {
    f"reward/{Role.PROPOSER}_{task}": f"0_overview/proposer_{task}" for task in TASKS
}


def panels(metrics: Mapping[str, float | None]) -> dict[str, float]:
    """A row of metrics under the names that wandb gets. It makes a section of what stands before a
    slash: keys without one go to `train/`, and the four of `FIRST` are shown in front a second time."""
    known = {key: value for key, value in metrics.items() if value is not None}
    named = {key if "/" in key else f"train/{key}": value for key, value in known.items()}
    return named | {name: known[key] for key, name in FIRST.items() if key in known}


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
        argv = [sys.executable, __file__, json.dumps(order | {"config": args.as_dict()})]
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


# ---------------------------------------------------------------- the process


def follow(log: Path, position: int) -> Iterator[dict]:
    """The rows of a growing log, until it is complete: when this process's input ends."""
    ended = False
    with open(log, "rb") as file:
        file.seek(position)
        rest = b""
        while True:
            *lines, rest = (rest + file.read()).split(b"\n")
            yield from map(json.loads, lines)
            if ended:
                return
            ended = bool(select.select([sys.stdin], [], [], POLL)[0])


def start(run_dir: Path, id: str, config: dict):
    """A wandb run, online if there is a key and somebody to show it to."""
    import wandb

    named = dict(project=PROJECT, name=run_dir.name, dir=str(run_dir))
    unset = {key: v for key, v in named.items() if f"WANDB_{key.upper()}" not in os.environ}
    known = wandb.login(prompt=False, verify=False)
    mode = os.environ.get("WANDB_MODE") or ("online" if known else "offline")
    wanted: dict[str, Any] = {**unset, "id": id, "resume": "allow", "config": config, "mode": mode}
    wanted["settings"] = wandb.Settings(silent=True, console="off")
    try:
        return wandb.init(**wanted)
    except Exception as error:
        if mode != "online":
            raise
        say(f"goes on offline ({type(error).__name__}: {error})")
        return wandb.init(**wanted | {"mode": "offline"})


def main(order: str) -> None:
    """Log to wandb what the JSON of `order` says: `run_dir`, `position`, `id`, `config`."""
    try:
        values = json.loads(order)
        run_dir = Path(values["run_dir"])
        run = start(run_dir, values["id"], values["config"])
        for row in follow(run_dir / METRICS, values["position"]):
            run.log(panels(row), step=row["step"])
        run.finish()
    except Exception as error:
        say(f"stopped ({type(error).__name__}: {error})")
        os._exit(1)  # what wandb would still wait for is lost


if __name__ == "__main__":
    main(sys.argv[1])
