"""The folder of a run: configuration, logs, plots, checkpoints.

Never writes into a folder that holds anything but litter, except to go on with the run in it.
"""

import json
import platform
import re
import shutil
import subprocess
from collections.abc import Mapping
from contextlib import suppress
from datetime import datetime
from importlib.metadata import version
from pathlib import Path

from constants import ROOT, RUNS_DIR
from model.args import AZRArgs
from model.run.checkpoints import LATEST, Checkpoints, move
from model.run.logs import LOGS, Logs
from model.run.rows import (
    Row,
    RunDirectoryError,
    arguments,
    check_metrics,
    check_problems,
    parse,
    parse_log,
)
from utils.files import hidden, is_litter, remove, replace_text

SUPERSEDED = "superseded-"
CONFIG = "config.json"
METRICS, ROLLOUTS, PROBLEMS, EVALUATIONS = (f"{name}.jsonl" for name in LOGS)
REPORT, COMPARISON = "report.html", "comparison.html"  # of this run, of this one and others
FOLDERS = ("plots", "checkpoints")
REPLACED = {REPORT, COMPARISON, CONFIG}  # at one blow, from a file beside it
OWN = REPLACED | {hidden(Path(name)).name for name in REPLACED}
OWN |= {METRICS, ROLLOUTS, PROBLEMS, EVALUATIONS, *FOLDERS, "wandb", "wandb.log"}


def run_path(args: AZRArgs) -> Path:
    """The folder that a run's arguments name; a new one where they name none."""
    if args.run_dir is not None:
        return Path(args.run_dir)
    stamp = datetime.now().strftime("%Y%m%d-%H%M%S-%f")[:-3]
    return RUNS_DIR / (args.run_name or f"{stamp}-seed{args.seed}")


class RunDirectory:
    """`path` and what is written below it. Raises RunDirectoryError where it is not new or empty, or,
    to go on with a run, holds anything else."""

    def __init__(self, args: AZRArgs):
        self.path = path = run_path(args)
        flag = f"--run-name {path.name}" if args.run_dir is None else f"--run-dir {args.run_dir}"
        self._was_empty, self._made, self.logs = False, [], None
        try:
            self._made = [folder for folder in (path, *path.parents) if not folder.exists()]
            path.mkdir(parents=True, exist_ok=True)
            found = {child.name for child in path.iterdir()}
            found = {name for name in found if name in OWN or not is_litter(name)}
            if found and args.resume is None:
                raise RunDirectoryError(
                    f"{flag}: the folder must be empty or not exist, and holds {min(found)}; "
                    f"--resume goes on with a run"
                )
            foreign = sorted(found - OWN - {path.name for path in self._superseded()})
            if foreign:
                raise RunDirectoryError(f"{flag}: must be a run directory; it holds {foreign[0]}")
            self._was_empty = not found
            for name in FOLDERS:
                (path / name).mkdir(exist_ok=True)
            self.logs = Logs(path)
            if not self.logs.lock():
                self._was_empty = False  # by now
                raise RunDirectoryError(f"{flag}: another process is writing this run")
            self.begin(args)
        except BaseException as error:
            self.discard()
            if not isinstance(error, OSError):
                raise
            raise RunDirectoryError(
                f"{flag}: must be a folder that can be written ({error.strerror})"
            ) from error
        self.checkpoints = Checkpoints(path / "checkpoints", args.keep_checkpoints)

    def close(self) -> None:
        """Close the logs."""
        if self.logs is not None:
            self.logs.close()

    def discard(self) -> None:
        """Leave no trace of a run that could not start; what was there before stays."""
        self.close()
        for name in OWN if self._was_empty else ():
            remove(self.path / name)
        for folder in self._made:
            with suppress(OSError):  # somebody has put something there by now
                folder.rmdir()

    def rewind(
        self, step: int | None, positions: Mapping[str, list | int], best: int | None
    ) -> None:
        """Back to the checkpoint of `step`, when the logs were at `positions`, or, without one, to the
        start. Logs that this takes anything from, and later checkpoints, are kept in a folder of their
        own."""
        numbers = [int(path.name.removeprefix(SUPERSEDED)) for path in self._superseded()]
        folder = self.path / f"{SUPERSEDED}{max(numbers, default=0) + 1}"

        def aside() -> Path:
            folder.mkdir(exist_ok=True)
            return folder

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
        found = self.path.glob(f"{SUPERSEDED}*")
        return [path for path in found if path.name.removeprefix(SUPERSEDED).isdecimal()]

    def begin(self, args: AZRArgs) -> None:
        """config.json with the arguments alone, unless there is one, so that a run that dies while its
        model is loaded goes on with its own."""
        if not (self.path / CONFIG).exists():
            self._write_config({"args": args.as_saved()})

    def write_config(self, args: AZRArgs, device: str, resumed_at: int | None = None) -> None:
        """config.json: resolved arguments, library versions, git commit, device; and of each time that
        the run was resumed, the same but the arguments, with the step."""
        libraries = ("torch", "transformers", "accelerate")
        here = {
            "versions": {
                "python": platform.python_version(),
                **{name: version(name) for name in libraries},
            },
            "git_commit": _git_commit(),
            "device": device,
        }
        config = {"args": args.as_saved()}
        if resumed_at is None:
            config |= here
        else:
            config = {**here, **read_config_if_any(self.path), **config}
            config.setdefault("resumed", []).append({"step": resumed_at, **here})
        self._write_config(config)

    def _write_config(self, config: Mapping) -> None:
        text = json.dumps(config, indent=2, ensure_ascii=False)
        replace_text(self.path / CONFIG, text)


def latest_checkpoint(run_dir: str | Path) -> Path:
    """The newest complete checkpoint of a run. Raises RunDirectoryError if there is none."""
    pointer = Path(run_dir) / "checkpoints" / LATEST
    if not pointer.is_file():
        raise RunDirectoryError(f"{run_dir}: is no run directory with a finished checkpoint")
    name = _read(run_dir, f"checkpoints/{LATEST}").strip()
    if not re.fullmatch(r"step_\d+", name):
        raise RunDirectoryError(f"{pointer}: must name a checkpoint, and holds {name[:40]!r}")
    if not (pointer.parent / name).is_dir():
        raise RunDirectoryError(f"{pointer}: names {name}, which is not there")
    return pointer.parent / name


def read_metrics(run_dir: str | Path) -> list[dict]:
    """The rows of metrics.jsonl. Raises RunDirectoryError if there is no such file, or it is damaged."""
    rows = parse_log(_read(run_dir, METRICS), f"{run_dir}/{METRICS}")
    check_metrics(rows)
    return rows


def read_problems(run_dir: str | Path) -> list[dict]:
    """The rows of problems.jsonl. Raises RunDirectoryError if there is no such file, or it is damaged."""
    return _problem_rows(run_dir, PROBLEMS)


def read_evaluations(run_dir: str | Path) -> list[dict]:
    """The rows of evaluations.jsonl, which runs of older versions do not have. Raises
    RunDirectoryError if it is damaged."""
    return _problem_rows(run_dir, EVALUATIONS) if (Path(run_dir) / EVALUATIONS).exists() else []


def read_rollouts(run_dir: str | Path) -> list[dict]:
    """The rows of rollouts.jsonl, which runs kept for their curves alone do not have. Raises
    RunDirectoryError if it is damaged."""
    if not (Path(run_dir) / ROLLOUTS).exists():
        return []
    return parse_log(_read(run_dir, ROLLOUTS), f"{run_dir}/{ROLLOUTS}")


def read_config(run_dir: str | Path) -> dict:
    """config.json. Raises RunDirectoryError if there is no such file, or it is damaged."""
    config = parse(_read(run_dir, CONFIG), f"{run_dir}/{CONFIG}")
    if not isinstance(config.get("args"), dict):
        raise RunDirectoryError(f"{run_dir}/{CONFIG}: must hold the arguments of a run")
    config["args"] = Row(config["args"], f"{run_dir}/{CONFIG}")
    return config


def read_config_if_any(run_dir: str | Path) -> dict:
    """config.json; nothing where there is none that can be read."""
    try:
        return read_config(run_dir)
    except RunDirectoryError:
        return {}


def read_args(run_dir: str | Path) -> dict:
    """The arguments in config.json; of a run of an older version, whose other arguments had no flag
    yet, with their defaults. Raises RunDirectoryError if there are none, or one that no run can have."""
    return arguments(read_config(run_dir)["args"], f"{run_dir}/{CONFIG}")


def _problem_rows(run_dir: str | Path, name: str) -> list[dict]:
    rows = parse_log(_read(run_dir, name), f"{run_dir}/{name}")
    check_problems(rows, name, read_args(run_dir))
    return rows


def _read(run_dir: str | Path, name: str) -> str:
    try:
        return (Path(run_dir) / name).read_text(encoding="utf-8")
    except FileNotFoundError as error:
        raise RunDirectoryError(f"{run_dir}: must be a run directory; it has no {name}") from error
    except OSError as error:
        raise RunDirectoryError(f"{run_dir}/{name}: cannot be read ({error.strerror})") from error
    except UnicodeDecodeError as error:
        raise RunDirectoryError(f"{run_dir}/{name}: must be UTF-8, and is damaged") from error


def _git_commit() -> str | None:
    """The commit this code stands at, "+" behind it where files differ; None outside git."""
    try:
        command = ["git", "-C", str(ROOT), "describe", "--always", "--abbrev=40", "--dirty=+"]
        return subprocess.run(command, capture_output=True, text=True, check=True).stdout.strip()
    except (OSError, subprocess.CalledProcessError):
        return None
