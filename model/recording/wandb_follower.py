"""The process that logs a run to wandb: it follows `metrics.jsonl` until its input ends.

python model/recording/wandb_follower.py '{"run_dir": ..., "position": 0, "id": ..., "config": {}}'
"""

import json
import os
import select
import sys
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

if __name__ == "__main__":
    sys.path[0] = str(Path(__file__).resolve().parents[2])  # runs from any folder

from custom_types import TASKS, Role
from model.recording.trackers import say
from model.run.layout import METRICS

PROJECT = "absolute-zero-prime-inversion"
POLL = 0.5  # seconds between two looks at the log
FIRST = {"eval/accuracy": "0_overview/accuracy"} | {
    f"reward/{Role.PROPOSER}_{task}": f"0_overview/proposer_{task}" for task in TASKS
}


def panels(metrics: Mapping[str, float | None]) -> dict[str, float]:
    """A row of metrics under the names that wandb gets. It makes a section of what stands before a
    slash: keys without one go to `train/`, and the four of `FIRST` are shown in front a second time."""
    known = {key: value for key, value in metrics.items() if value is not None}
    named = {key if "/" in key else f"train/{key}": value for key, value in known.items()}
    return named | {name: known[key] for key, name in FIRST.items() if key in known}


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
