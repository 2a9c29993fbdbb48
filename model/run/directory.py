"""The folder that a run is written into: configuration, logs, plots, checkpoints.

Arguments go in, a folder that is held by this run alone comes out. A folder that holds anything but
litter is refused, unless it is a run that is being resumed.
"""

import json
import platform
import shutil
import subprocess
from collections.abc import Mapping
from contextlib import ExitStack, closing, suppress
from datetime import datetime
from functools import cache
from importlib.metadata import version
from pathlib import Path

from constants import ROOT, RUNS_DIR
from model.args import AZRArgs
from model.run.checkpoints import Checkpoints, move
from model.run.finished import FinishedRun
from model.run.layout import (
    CHECKPOINTS,
    COMPARISON,
    CONFIG,
    EVALUATIONS,
    METRICS,
    PLOTS,
    PROBLEMS,
    REPORT,
    ROLLOUTS,
    SUPERSEDED,
)
from model.run.logs import Logs
from model.run.rows import RunDirectoryError
from utils.files import hidden, is_litter, remove, replace_text

MEASURED = "measured"  # in config.json
REPLACED = {REPORT, COMPARISON, CONFIG}  # at one blow, from a file beside it
WRITTEN = REPLACED | {hidden(Path(name)).name for name in REPLACED}
WRITTEN |= {METRICS, ROLLOUTS, PROBLEMS, EVALUATIONS, PLOTS, CHECKPOINTS}
WRITTEN |= {"wandb", "wandb.log", "tensorboard", "tensorboard.log", "trackio.log"}  # by trackers


def run_path(args: AZRArgs) -> Path:
    """The folder that a run's arguments name; a new one where they name none."""
    if args.run_dir is not None:
        return Path(args.run_dir)
    stamp = datetime.now().strftime("%Y%m%d-%H%M%S-%f")[:-3]
    return RUNS_DIR / (args.run_name or f"{stamp}-seed{args.seed}")


class RunDirectory:
    """`path`, and what is written into it. Raises RunDirectoryError where the folder is not empty, or,
    when a run is resumed, where it holds what no run has written."""

    def __init__(self, args: AZRArgs):
        self.path = path = run_path(args)
        flag = f"--run-name {path.name}" if args.run_dir is None else f"--run-dir {args.run_dir}"
        self._was_empty, self._open_logs = False, ExitStack()
        self._made: list[Path] = []
        try:
            self._made = [folder for folder in (path, *path.parents) if not folder.exists()]
            path.mkdir(parents=True, exist_ok=True)
            found = self._require_free(flag, resuming=args.resume is not None)
            self._was_empty = not found
            for name in (PLOTS, CHECKPOINTS):
                (path / name).mkdir(exist_ok=True)
            self.logs = self._open_logs.enter_context(closing(Logs(path)))
            if not self.logs.lock():
                self._was_empty = False  # what is here now is another process's
                raise RunDirectoryError(f"{flag}: another process is writing this run")
            if not (path / CONFIG).exists():
                # The arguments alone: a run that dies while its model is loaded is resumed with them.
                self._write_config({"args": args.as_saved()})
        except BaseException as error:
            self.discard()
            if not isinstance(error, OSError):
                raise
            raise RunDirectoryError(
                f"{flag}: must be a folder that can be written ({error.strerror})"
            ) from error
        self.checkpoints = Checkpoints(path / CHECKPOINTS, args.keep_checkpoints)

    def _require_free(self, flag: str, resuming: bool) -> set[str]:
        """The names of what the folder holds, litter aside. Raises RunDirectoryError for a name that
        must not be there."""
        found = {child.name for child in self.path.iterdir()}
        found = {name for name in found if name in WRITTEN or not is_litter(name)}
        if found and not resuming:
            raise RunDirectoryError(
                f"{flag}: the folder must be empty or not exist, and holds {min(found)}; "
                f"--resume continues a run"
            )
        foreign = found - WRITTEN - {folder.name for folder in self._superseded()}
        if foreign:
            raise RunDirectoryError(f"{flag}: must be a run directory; it holds {min(foreign)}")
        return found

    def close(self) -> None:
        """Close the logs."""
        self._open_logs.close()

    def discard(self) -> None:
        """Leave no trace of a run that could not start; what was there before stays."""
        self.close()
        for name in WRITTEN if self._was_empty else ():
            remove(self.path / name)
        for folder in self._made:
            with suppress(OSError):  # somebody has put something there by now
                folder.rmdir()

    def rewind(
        self, step: int | None, positions: Mapping[str, list | int], best: int | None
    ) -> None:
        """Return to the checkpoint of `step`, when the logs were at `positions`, or without one to the
        start. Later checkpoints, and copies of the logs that are cut, are kept in a new folder."""
        numbers = [int(folder.name.removeprefix(SUPERSEDED)) for folder in self._superseded()]
        kept = self.path / f"{SUPERSEDED}{max(numbers, default=0) + 1}"

        def aside() -> Path:
            kept.mkdir(exist_ok=True)
            return kept

        for log in self.logs.longer_than(positions):
            shutil.copyfile(log, aside() / log.name)
        self.checkpoints.unfold_best(aside)
        for later in self.checkpoints.steps():
            if step is not None and later > step:
                move(self.checkpoints.path(later), aside())
        if step is not None:
            self.checkpoints.settle(step, best)
        self.logs.cut(positions)

    def _superseded(self) -> list[Path]:
        """The folders that earlier resumptions have moved things into."""
        found = self.path.glob(f"{SUPERSEDED}*")
        return [path for path in found if path.name.removeprefix(SUPERSEDED).isdecimal()]

    def write_measured(self, args: AZRArgs, measured: Mapping) -> None:
        """config.json before the run itself: its arguments, and what was measured to decide some of them,
        by their names. `write_config` keeps it."""
        self._write_config({"args": args.as_saved(), MEASURED: measured})

    def write_config(
        self, args: AZRArgs, ways: Mapping[str, str], resumed_at: int | None = None
    ) -> None:
        """config.json: resolved arguments, library versions, git commit, and `ways`: device, precision,
        engine and its decoding. A run that is resumed at a step keeps those it began with, and adds the
        step and these to its list `resumed`."""
        libraries = ("torch", "transformers", "accelerate")
        here = {
            "versions": {
                "python": platform.python_version(),
                **{name: version(name) for name in libraries},
            },
            "git_commit": git_commit(),
            **ways,
        }
        now, before = {"args": args.as_saved()}, self._config_before()
        if resumed_at is None:
            kept = {MEASURED: before[MEASURED]} if MEASURED in before else {}
            self._write_config(now | kept | here)
        else:
            resumed = [*before.get("resumed", []), {"step": resumed_at, **here}]
            self._write_config(here | before | now | {"resumed": resumed})

    def _config_before(self) -> dict:
        """config.json as it is; nothing where it cannot be read, since a checkpoint has the arguments."""
        try:
            return dict(FinishedRun(self.path).config)
        except RunDirectoryError:
            return {}

    def _write_config(self, config: Mapping) -> None:
        replace_text(self.path / CONFIG, json.dumps(config, indent=2, ensure_ascii=False))


@cache
def git_commit() -> str | None:
    """The commit this code stands at, "+" behind it where files differ, when it was first asked; None
    outside git."""
    try:
        command = ["git", "-C", str(ROOT), "describe", "--always", "--abbrev=40", "--dirty=+"]
        return subprocess.run(command, capture_output=True, text=True, check=True).stdout.strip()
    except (OSError, subprocess.CalledProcessError):
        return None
