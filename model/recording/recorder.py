"""Everything a run writes and prints: run directory, terminal, tracker, plots, report.

Steps and checkpoints go in, in the order of its methods: `start`, `warm_started`, `record` and
`checkpoint`, `finish`. Of the processes of a run the first one alone has a recorder.
"""

import sys
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, suppress
from functools import partial
from pathlib import Path
from typing import Any

from compute.symptoms import SYMPTOMS, Watch
from custom_types import Policy, Problem, Step, Verdict
from model.args import AZRArgs
from model.recording.console import Console
from model.recording.trackers import Trackers
from model.report.pictures import save_plots
from model.report.sections import save_report
from model.run.card import CARD, Card, counts, hub_id
from model.run.checkpoints import save_state, state_size
from model.run.directory import RunDirectory, git_commit
from model.run.finished import FinishedRun
from model.run.layout import PLOTS, REPORT
from model.run.logs import evaluation_row, position_of
from model.run.resumption import Resumption
from model.run.rows import RunDirectoryError


class Recorder:
    """Writes and says it all. Raises RunDirectoryError where the run directory is not new or empty, or
    holds no run to resume."""

    def __init__(self, args: AZRArgs, resumption: Resumption | None):
        self.args, self.resumption = args, resumption
        self.run = RunDirectory(args)
        self.console = Console(args, self.run.path)
        self.watch = Watch(args.batch_size)
        self.trackers: Trackers | None = None
        self.best: dict | None = None
        self.accuracy: float | None = None  # of the last recorded step, if it was evaluated
        self.evaluation: Mapping | None = None  # the last row of evaluations.jsonl
        self.recorded = False

    def discard(self) -> None:
        """The run has ended: leave no trace of it if nothing was recorded yet."""
        if self.recorded:
            return
        self._of_trackers(Trackers.release)
        self._of_trackers(Trackers.wait)
        self.run.discard()

    def decided(self, args: AZRArgs, measured: Mapping) -> None:
        """What the command line left to the run is decided. args: from here on. measured: by the name of
        each argument that was left open, what was measured for it. Raises RunDirectoryError."""
        self.args = self.console.args = args
        with _writable():
            self.run.write_measured(args, measured)

    def start(self, policy: Policy, device: str, precision: str, state: Mapping | None) -> None:
        """The policy is there. precision: of the factors of its products. state: of the checkpoint that
        the run continues from, if any. Raises CheckpointError where there is no room for a checkpoint, and
        RunDirectoryError."""
        saved, step = ({}, None) if state is None else (state["recorder"], state["step"])
        self.tokenizer, self.best = policy.tokenizer, saved.get("best")
        weights = list(policy.model.parameters())
        self.weights_size = sum(4 * weight.numel() for weight in weights)  # bytes, in float32
        moments_size = sum(8 * weight.numel() for weight in weights if weight.requires_grad)
        positions = saved.get("logs", {})
        with _writable():
            if self.resumption is not None:
                self.run.rewind(step, positions, self._best_step())
                for sentence in self.resumption.skipped:
                    print(sentence, file=sys.stderr)
            if self.args.total_steps > (step or 0):
                self.run.checkpoints.require_room(self.weights_size + moments_size)
            ways = dict(precision=precision, engine=policy.engine, decode=policy.decode)
            self.run.write_config(self.args, {"device": device, **ways}, step)
        self.console.start(policy, device, precision)
        if self.resumption is not None:
            before = FinishedRun(self.run.path).metrics
            self.console.resumed(self.resumption.checkpoint, before)
            for row in before:
                self.watch.add(row)
            self.evaluation = next(reversed(FinishedRun(self.run.path).evaluations), None)
        # A folder may be gone when the run goes on, and its path may then look like a name on the hub.
        known = "base_model" in saved
        self.base_model = saved["base_model"] if known else hub_id(self.args.model)
        self.card = Card.of(policy, self.args, self.base_model, git_commit())
        begun, _ = position_of("metrics", positions)
        first = 0 if step is None else step + 1
        self.trackers = Trackers(self.args, self.run.path, begun, first, saved.get("trackers", {}))

    def warm_started(self, loss: float | None, seconds: float) -> None:
        """The warm start is over."""
        self.console.warm_started(loss, seconds)

    def record(
        self, metrics: Mapping, done: Step | None, evaluated: list[tuple[Problem, Verdict]]
    ) -> None:
        """A step is over. metrics: of the step and its evaluation. done: None for step 0, before training.
        evaluated: the verdicts of the evaluation, none where there was none."""
        step, logs = metrics["step"], self.run.logs
        self.accuracy = metrics.get("eval/accuracy")
        warnings = self.watch.add(metrics)
        logs.log_metrics({**metrics, **warnings} if step else metrics)
        self.recorded = True
        if done is not None:
            logs.log_rollouts(step, done.learned, self.tokenizer, self.args.logged_rollouts)
            logs.log_problems(step, done.played)
        if evaluated:
            self.evaluation = evaluation_row(step, evaluated)
            logs.log_evaluation(self.evaluation)
        self.console.step(metrics)
        for key in self.watch.begun:
            self.console.warn(SYMPTOMS[key])

    def say(self, line: str) -> None:
        """Tell the user something."""
        self.console.say(line)

    def checkpoint(self, state: dict, save_policy: Callable[[Path], None]) -> None:
        """All of a step is recorded: keep what another process needs to continue. save_policy: writes
        the policy into a folder. Raises CheckpointError."""
        step, accuracy = state["step"], self.accuracy
        # What is best must not depend on where a run was interrupted.
        if accuracy is not None and step % self.args.checkpoint_every == 0:
            if self.best is None or accuracy > self.best["accuracy"]:
                self.best = {"step": step, "accuracy": accuracy}
        logs = self.run.logs.positions()
        assert self.trackers is not None  # since `start`
        saved: dict[str, Any] = {"best": self.best, "trackers": self.trackers.ids, "logs": logs}
        saved["base_model"] = self.base_model
        state = {**state, "args": self.args.as_saved(), "recorder": saved}

        def fill(folder: Path) -> dict[str, str]:
            save_policy(folder)
            (folder / CARD).write_text(self._card(step), encoding="utf-8")
            return save_state(folder, state)

        size = self.weights_size + state_size(state)
        self.run.checkpoints.save(step, fill, size, self._best_step())

    def _card(self, step: int) -> str:
        if self.evaluation is None:
            return self.card.text(step, None, None)
        return self.card.text(step, self.evaluation["step"], counts(self.evaluation))

    def _best_step(self) -> int | None:
        return None if self.best is None else self.best["step"]

    def finish(self) -> None:
        """The run is over and whole, whatever a library that draws or a full disk says now."""
        path, report = self.run.path, self.run.path / REPORT
        _attempt("logs", self.run.close)
        self._of_trackers(Trackers.release)
        _attempt(path / PLOTS, lambda: save_plots([path], path / PLOTS))
        _attempt(report, lambda: save_report([path], report))
        _attempt("the summary", self._say_end)
        self._of_trackers(Trackers.wait)  # last, since it takes a while where they do

    def _of_trackers(self, action: Callable[[Trackers], None]) -> None:
        if self.trackers is not None:
            _attempt("curves", partial(action, self.trackers))

    def _say_end(self) -> None:
        last = self.run.checkpoints.path(self.run.checkpoints.steps()[-1])
        self.console.end(FinishedRun(self.run.path).metrics, last, self.run.path / REPORT)

    def last_checkpoint(self) -> str:
        """Half a sentence on the checkpoint that the run can be resumed from."""
        steps = self.run.checkpoints.steps()
        if not steps:
            return "there is no checkpoint yet"
        return f"the last good checkpoint is {self.run.checkpoints.path(steps[-1])}"


@contextmanager
def _writable() -> Iterator[None]:
    """What the run cannot be without is written. Raises RunDirectoryError for what the system says."""
    try:
        yield
    except OSError as error:
        raise RunDirectoryError(f"{error}: the run directory must be writable") from error


def _attempt(what: object, action: Callable[[], object]) -> None:
    """Do what may fail without harm; say so in one line."""
    try:
        action()
    except Exception as error:
        with suppress(OSError):  # nobody listens
            reason = " ".join(f"{type(error).__name__}: {error}".split())
            print(f"{what} could not be written ({reason})", file=sys.stderr)
