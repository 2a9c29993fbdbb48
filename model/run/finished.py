"""The one reader of runs: a folder goes in; its configuration, its logs and its newest checkpoint come out.

    run = FinishedRun("runs/first")
    run.args["seed"], run.metrics[-1]["eval/accuracy"], run.newest_checkpoint

Each file is read when it is first asked for, and once, and is checked: a file that is missing, damaged
or of another run raises RunDirectoryError. Runs of older versions are read too. A run may still be in
progress: the last line of a log is no row until it has its end.
"""

import re
from collections.abc import Iterable, Mapping, Sequence
from functools import cached_property
from os.path import isfile
from pathlib import Path

from custom_types import Problem, TaskType
from model.args import AZRArgs
from model.run.checkpoints import load_values
from model.run.layout import (
    CHECKPOINTS,
    CONFIG,
    EVALUATIONS,
    LATEST,
    METRICS,
    PROBLEMS,
    ROLLOUTS,
)
from model.run.rows import (
    Row,
    RunDirectoryError,
    check_metrics,
    check_problems,
    current_args,
    decided_arguments,
    parse,
    parse_log,
)


def is_run(folder: str | Path) -> bool:
    """Whether a folder is that of a run; False for what can be no folder."""
    return isfile(Path(folder) / METRICS)


def read_runs(run_dirs: Sequence[str | Path]) -> list["FinishedRun"]:
    """Runs by the names of their folders, or where two are the same, by their paths."""
    names = [Path(run_dir).resolve().name for run_dir in run_dirs]
    if len(set(names)) < len(names):
        names = list(map(str, run_dirs))
    return [FinishedRun(run_dir, name) for run_dir, name in zip(run_dirs, names, strict=True)]


def taught_problems(checkpoint: Path) -> set[Problem]:
    """The problems that the answers in the updates up to a checkpoint were to. Raises CheckpointError, and
    RunDirectoryError where it does not say."""
    values = load_values(checkpoint)
    try:
        rows = values["problems"]["problems"]
        return {Problem(TaskType(task), x, y, p) for task, x, y, p, _, answers in rows if answers}
    except (KeyError, TypeError, ValueError) as error:
        raise RunDirectoryError(f"{checkpoint}: counts no answers") from error


def evaluated_rows(metrics: Iterable[Mapping]) -> list[Mapping]:
    """The rows of metrics.jsonl whose step was followed by an evaluation."""
    return [row for row in metrics if "eval/accuracy" in row]


class FinishedRun:
    """What a run has left in its folder `path`. name: what a page or a table calls it.

    Reading an attribute raises RunDirectoryError, one sentence, where its file cannot be used.
    """

    def __init__(self, path: str | Path, name: str | None = None):
        self.path = Path(path)
        self.name = self.path.resolve().name if name is None else name

    # ---------------------------------------------------------------- what it was asked to do

    @cached_property
    def config(self) -> Row:
        """config.json as it is written there."""
        where = f"{self.path}/{CONFIG}"
        config = parse(self._text(CONFIG), where)
        if not isinstance(config.get("args"), dict):
            raise RunDirectoryError(f"{where}: must hold the arguments of a run")
        config["args"] = Row(config["args"], where)
        return config

    @cached_property
    def args(self) -> Row:
        """Its arguments by name. Those that its version did not have are the defaults. Raises
        RunDirectoryError too for a run that ended before it had decided them all."""
        return decided_arguments(self.config["args"], f"{self.path}/{CONFIG}")

    @cached_property
    def azr_args(self) -> AZRArgs:
        """`args` as this version runs with them. Raises RunDirectoryError too for an argument that
        this version does not have."""
        return current_args(self.args)

    @property
    def git_commit(self) -> str | None:
        """The commit of the code that began the run; None where it was not known."""
        return self.config.get("git_commit")

    # ---------------------------------------------------------------- its logs

    @cached_property
    def metrics(self) -> list[Row]:
        """The rows of metrics.jsonl."""
        rows = self._log(METRICS)
        check_metrics(rows)
        return rows

    @cached_property
    def problems(self) -> list[Row]:
        """The rows of problems.jsonl."""
        return self._problem_log(PROBLEMS)

    @cached_property
    def evaluations(self) -> list[Row]:
        """The rows of evaluations.jsonl; none of an older version's run, which has no such file."""
        return self._problem_log(EVALUATIONS) if (self.path / EVALUATIONS).exists() else []

    @cached_property
    def rollouts(self) -> list[Row]:
        """The rows of rollouts.jsonl; none of a run that is kept for its curves alone, without it."""
        return self._log(ROLLOUTS) if (self.path / ROLLOUTS).exists() else []

    # ---------------------------------------------------------------- what it has learned

    @cached_property
    def newest_checkpoint(self) -> Path:
        """The folder of its newest complete checkpoint."""
        pointer = self.path / CHECKPOINTS / LATEST
        if not pointer.is_file():
            raise RunDirectoryError(f"{self.path}: is no run directory with a finished checkpoint")
        name = self._text(f"{CHECKPOINTS}/{LATEST}").strip()
        if not re.fullmatch(r"step_\d+", name):
            raise RunDirectoryError(f"{pointer}: must name a checkpoint, and holds {name[:40]!r}")
        if not (pointer.parent / name).is_dir():
            raise RunDirectoryError(f"{pointer}: names {name}, which is not there")
        return pointer.parent / name

    @cached_property
    def trained_on(self) -> set[Problem]:
        """The problems that the answers in its updates were to, up to the newest checkpoint. Raises
        CheckpointError too."""
        return taught_problems(self.newest_checkpoint)

    # ---------------------------------------------------------------- its files

    def _problem_log(self, name: str) -> list[Row]:
        rows = self._log(name)
        check_problems(rows, name, self.args)
        return rows

    def _log(self, name: str) -> list[Row]:
        return parse_log(self._text(name), f"{self.path}/{name}")

    def _text(self, name: str) -> str:
        try:
            return (self.path / name).read_text(encoding="utf-8")
        except FileNotFoundError as error:
            raise RunDirectoryError(
                f"{self.path}: must be a run directory; it has no {name}"
            ) from error
        except OSError as error:
            raise RunDirectoryError(
                f"{self.path}/{name}: cannot be read ({error.strerror})"
            ) from error
        except UnicodeDecodeError as error:
            raise RunDirectoryError(f"{self.path}/{name}: must be UTF-8, and is damaged") from error
