"""The trackers behind `follower.py`: a run's rows go in, and out to wherever each keeps them."""

import os
import time
import warnings
from collections.abc import Callable, Mapping
from contextlib import redirect_stdout, suppress
from dataclasses import dataclass
from io import StringIO
from pathlib import Path
from typing import Any, Protocol

from model.recording.trackers import say

PROJECT = "absolute-zero-prime-inversion"
EVENTS = "tensorboard"  # in the run directory
FLUSH = 10  # seconds after which TensorBoard can read a row
ELSEWHERE = "TRACKIO_SERVER_URL", "TRACKIO_SPACE_ID"  # where trackio's runs are not on this machine


@dataclass(frozen=True)
class Order:
    """A run to log. first: the step of its first row; its tracker may have later ones of a process that
    died. id: the run's name among those of its tracker. known: whether earlier processes of the run
    logged under it. config: its arguments."""

    run_dir: Path
    first: int
    id: str
    known: bool
    config: Mapping[str, Any]


class Sink(Protocol):
    """Takes rows, in the order of their steps, and then is finished."""

    def log(self, values: Mapping[str, float], *, step: int) -> None: ...

    def finish(self) -> None: ...


def wandb_sink(order: Order) -> Any:
    """A wandb run, which is a `Sink`, online if there is a key and somebody to show it to."""
    import wandb

    named = dict(project=PROJECT, name=order.run_dir.resolve().name, dir=str(order.run_dir))
    unset = {key: v for key, v in named.items() if f"WANDB_{key.upper()}" not in os.environ}
    known = wandb.login(prompt=False, verify=False)
    mode = os.environ.get("WANDB_MODE") or ("online" if known else "offline")
    wanted: dict[str, Any] = {
        **unset,
        "id": order.id,
        "resume": "allow",
        "config": order.config,
        "mode": mode,
    }
    wanted["settings"] = wandb.Settings(silent=True, console="off")
    try:
        return wandb.init(**wanted)
    except Exception as error:
        if mode != "online":
            raise
        say("wandb", f"goes on offline ({type(error).__name__}: {error})")
        return wandb.init(**wanted | {"mode": "offline"})


class TensorBoardSink:
    """Files of events in the run directory. They say at which step they begin, by which TensorBoard drops
    what earlier processes had logged from there on."""

    def __init__(self, order: Order):
        from tensorboard.compat.proto.event_pb2 import Event, SessionLog
        from tensorboard.compat.proto.summary_pb2 import Summary
        from tensorboard.summary.writer.event_file_writer import EventFileWriter

        self._event, self._summary = Event, Summary
        self._writer = EventFileWriter(str(order.run_dir / EVENTS), flush_secs=FLUSH)
        begun = SessionLog(status=SessionLog.START)
        self._add(step=order.first, session_log=begun)

    def log(self, values: Mapping[str, float], *, step: int) -> None:
        rows = [self._summary.Value(tag=name, simple_value=v) for name, v in values.items()]
        self._add(step=step, summary=self._summary(value=rows))

    def _add(self, **values: Any) -> None:
        self._writer.add_event(self._event(wall_time=time.time(), **values))

    def finish(self) -> None:
        self._writer.close()


class TrackioSink:
    """A trackio run, where trackio keeps its runs; its environment variables name another place. On this
    machine what earlier processes had logged of it is replaced; elsewhere it cannot be, and steps that
    are there are left out."""

    def __init__(self, order: Order):
        import trackio

        self._trackio = trackio
        # It greets, and says of a failure no more than a warning.
        warnings.showwarning = lambda message, *_: say("trackio", str(message))
        if order.known and not any(os.environ.get(place) for place in ELSEWHERE):
            with suppress(ValueError):  # no run of this project is there yet
                for run in trackio.Api().runs(PROJECT):
                    if run.name == order.id:
                        run.delete()
        with redirect_stdout(StringIO()):
            self._run = trackio.init(
                project=PROJECT,
                name=order.id,
                resume="allow",
                config=dict(order.config),
                embed=False,
                auto_log_gpu=False,
                auto_log_cpu=False,
            )
        self._next = getattr(self._run, "_next_step", 0)  # trackio has no public word for it

    def log(self, values: Mapping[str, float], *, step: int) -> None:
        if step >= self._next:
            self._run.log(dict(values), step=step)

    def finish(self) -> None:
        with redirect_stdout(StringIO()):
            self._trackio.finish()


SINKS: dict[str, Callable[[Order], Sink]] = {
    "wandb": wandb_sink,
    "tensorboard": TensorBoardSink,
    "trackio": TrackioSink,
}
