"""The process that logs a run to a tracker: it follows `metrics.jsonl` until its input ends.

python model/recording/follower.py '{"name": "wandb", "run_dir": ..., "position": 0, "first": 0, "id": ...}'
"""

import json
import os
import select
import sys
from collections.abc import Iterator, Mapping
from pathlib import Path

if __name__ == "__main__":
    sys.path[0] = str(Path(__file__).resolve().parents[2])  # runs from any folder

from custom_types import TASKS, Role
from model.recording.sinks import SINKS, Order
from model.recording.trackers import say
from model.run.layout import METRICS

POLL = 0.5  # seconds between two looks at the log
FIRST = {"eval/accuracy": "0_overview/accuracy"} | {
    f"reward/{Role.PROPOSER}_{task}": f"0_overview/proposer_{task}" for task in TASKS
}


def panels(metrics: Mapping[str, float | None]) -> dict[str, float]:
    """A row of metrics under the names that a tracker gets. It makes a section of what stands before a
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


def main(order: str) -> None:
    """Log to the tracker `name` what the JSON of `order` says: the fields of an `Order`, and the
    `position` of the first row in the log."""
    values = json.loads(order)
    name, position = values.pop("name"), values.pop("position")
    try:
        run_dir = Path(values.pop("run_dir"))
        sink = SINKS[name](Order(run_dir, **values))
        for row in follow(run_dir / METRICS, position):
            sink.log(panels(row), step=row["step"])
        sink.finish()
    except (Exception, SystemExit) as error:
        say(name, f"stopped ({type(error).__name__}: {error})")
        os._exit(1)  # what it would still wait for is lost


if __name__ == "__main__":
    main(sys.argv[1])
