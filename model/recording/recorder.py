"""Everything a run writes and says: run directory, terminal, tracker, plots, report. One process does
it."""

import sys
from collections.abc import Callable, Mapping
from contextlib import suppress
from pathlib import Path

from custom_types import Policy, Problem, Round, Scored, Verdict
from model.args import AZRArgs
from model.recording.console import Console
from model.recording.trackers import WandbTracker
from model.report.pictures import save_plots
from model.report.sections import save_report
from model.run.checkpoints import save_state, state_size
from model.run.directory import REPORT, RunDirectory, read_metrics
from model.run.logs import recorded
from model.run.resumption import Resumption
from model.run.rows import RunDirectoryError


class Silence:
    """What the other processes of a run have in a `Recorder`'s place."""

    def discard(self) -> None:
        """The run has ended before anything was recorded: leave no trace of it."""

    def start(self, policy: Policy, device: str, state: Mapping | None) -> None:
        """The policy is there. state: of the checkpoint that the run goes on from, if any."""

    def warm_started(self, loss: float, seconds: float) -> None:
        """The warm start is over."""

    def record(
        self,
        metrics: Mapping,
        trained: list[tuple[Scored, float]],
        played: Round | None,
        evaluated: list[tuple[Problem, Verdict]],
    ) -> None:
        """A step is over: its metrics, what was trained on with its advantages, its round if any, and
        the verdicts of its evaluation, none where it was not evaluated."""

    def checkpoint(self, state: dict, save_policy: Callable[[Path], None]) -> None:
        """All of a step is recorded; keep what another process needs to go on. save_policy: writes the
        policy into a folder."""

    def finish(self) -> None:
        """The run is over."""

    def last_checkpoint(self) -> str:
        """Half a sentence on what can be gone on from."""
        return "the first process says which checkpoint is the last good one"


class Recorder(Silence):
    """Writes it all. Raises RunDirectoryError where the run directory is not new or empty, or holds no
    run to go on with."""

    def __init__(self, args: AZRArgs, resumption: Resumption | None):
        self.args, self.resumption = args, resumption
        self.run = RunDirectory(args)
        self.console = Console(args, self.run.path)
        self.tracker: WandbTracker | None = None
        self.best: dict | None = None
        self.accuracy: float | None = None  # of the last recorded step, if it was evaluated
        self.recorded = False

    def discard(self) -> None:
        if self.recorded:
            return
        if self.tracker is not None:
            _attempt("wandb", self.tracker.close)
        self.run.discard()

    def start(self, policy: Policy, device: str, state: Mapping | None) -> None:
        """Raises CheckpointError where there is no room for one, and RunDirectoryError."""
        own, step = ({}, None) if state is None else (state["recorder"], state["step"])
        self.tokenizer, self.best = policy.tokenizer, own.get("best")
        weights = list(policy.model.parameters())
        self.weights = sum(4 * one.numel() for one in weights)
        moments = sum(8 * one.numel() for one in weights if one.requires_grad)
        positions = own.get("logs", {})
        try:
            if self.resumption is not None:
                self.run.rewind(step, positions, self._best_step())
                for sentence in self.resumption.skipped:
                    print(sentence, file=sys.stderr)
            if self.args.total_steps > (step or 0):
                self.run.checkpoints.require_room(self.weights + moments)
            self.run.write_config(self.args, device, step)
        except OSError as error:
            raise RunDirectoryError(f"{error}: the run directory must be writable") from error
        self.console.start(policy, device)
        if self.resumption is not None:
            self.console.resumed(self.resumption.checkpoint, read_metrics(self.run.path))
        begun, _ = recorded(positions, "metrics")
        self.tracker = WandbTracker(self.args, self.run.path, begun, own.get("tracker"))

    def warm_started(self, loss: float, seconds: float) -> None:
        self.console.warm_started(loss, seconds)

    def record(
        self,
        metrics: Mapping,
        trained: list[tuple[Scored, float]],
        played: Round | None,
        evaluated: list[tuple[Problem, Verdict]],
    ) -> None:
        step, logs = metrics["step"], self.run.logs
        self.accuracy = metrics.get("eval/accuracy")
        logs.log_metrics(metrics)
        self.recorded = True
        logs.log_rollouts(step, trained, self.tokenizer, self.args.logged_rollouts)
        logs.log_problems(step, played)
        logs.log_evaluation(step, evaluated)
        self.console.step(metrics)

    def checkpoint(self, state: dict, save_policy: Callable[[Path], None]) -> None:
        """Raises CheckpointError."""
        step, accuracy = state["step"], self.accuracy
        # What is best must not depend on where a run was interrupted.
        if accuracy is not None and step % self.args.checkpoint_every == 0:
            if self.best is None or accuracy > self.best["accuracy"]:
                self.best = {"step": step, "accuracy": accuracy}
        logs = self.run.logs.positions()
        own = {"best": self.best, "tracker": self.tracker.id, "logs": logs}
        state = {**state, "args": self.args.of_the_run(), "recorder": own}

        def fill(folder: Path) -> None:
            save_policy(folder)
            save_state(folder, state)

        size = self.weights + state_size(state)
        self.run.checkpoints.save(step, fill, size, self._best_step())

    def _best_step(self) -> int | None:
        return None if self.best is None else self.best["step"]

    def finish(self) -> None:
        """The run is over and whole, whatever a library that draws or a full disk says now."""
        path, report = self.run.path, self.run.path / REPORT
        _attempt("logs", self.run.close)
        _attempt("wandb", self.tracker.close)
        _attempt(path / "plots", lambda: save_plots([path], path / "plots"))
        _attempt(report, lambda: save_report([path], report))
        _attempt("the summary", self._say_end)

    def _say_end(self) -> None:
        last = self.run.checkpoints.path(self.run.checkpoints.steps()[-1])
        self.console.end(read_metrics(self.run.path), last, self.run.path / REPORT)

    def last_checkpoint(self) -> str:
        steps = self.run.checkpoints.steps()
        if not steps:
            return "there is no checkpoint yet"
        return f"the last good checkpoint is {self.run.checkpoints.path(steps[-1])}"


def _attempt(what: object, action: Callable[[], object]) -> None:
    """Do what may fail without harm; say so in one line."""
    try:
        action()
    except Exception as error:
        with suppress(OSError):  # nobody listens
            reason = " ".join(f"{type(error).__name__}: {error}".split())
            print(f"{what} could not be written ({reason})", file=sys.stderr)
