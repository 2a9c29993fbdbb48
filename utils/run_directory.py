"""The folder of a run: configuration, logs, plots, checkpoints.

Never writes into a folder that holds anything, but to go on with the run in it.
"""

import json
import platform
import shutil
import subprocess
from collections.abc import Mapping
from datetime import datetime
from importlib.metadata import version
from pathlib import Path

from constants import ROOT, RUNS_DIR
from model.args import AZRArgs
from utils.checkpoints import Checkpoints, replace_text
from utils.logs import LOGS, Logs

SUPERSEDED = "superseded-"
REPORT = "report.html"
REPLACED = {REPORT, "config.json"}  # at one blow, from a file beside it
OWN = REPLACED | {f".{name}.partial" for name in REPLACED} | {f"{name}.jsonl" for name in LOGS}
OWN |= {"plots", "checkpoints", "wandb", "wandb.log"}


class RunDirectoryError(Exception):
    """A run directory that cannot be used; the message is one sentence for the user."""


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
        self._is_new = not path.exists()
        try:
            path.mkdir(parents=True, exist_ok=True)
            found = {child.name for child in path.iterdir()}
            if found and args.resume is None:
                raise RunDirectoryError(
                    f"{flag}: the folder must be empty or not exist, and holds files; --resume goes "
                    f"on with a run"
                )
            foreign = sorted(found - OWN - {path.name for path in self._superseded()})
            if foreign:
                raise RunDirectoryError(f"{flag}: must be a run directory; it holds {foreign[0]}")
            self._was_empty = not found
            for name in ("plots", "checkpoints"):
                (path / name).mkdir(exist_ok=True)
            self.logs = Logs(path)
        except OSError as error:
            raise RunDirectoryError(
                f"{flag}: must be a folder that can be written ({error.strerror})"
            ) from error
        if not self.logs.lock():
            raise RunDirectoryError(f"{flag}: another process is writing this run")
        self.checkpoints = Checkpoints(path / "checkpoints", args.keep_checkpoints)
        self.checkpoint_every = args.checkpoint_every

    def close(self) -> None:
        """Close the logs."""
        self.logs.close()

    def discard(self) -> None:
        """Leave no trace of a run that could not start; what was there before stays."""
        self.close()
        if self._was_empty:
            for child in self.path.iterdir():
                shutil.rmtree(child) if child.is_dir() else child.unlink()
        if self._is_new:
            self.path.rmdir()

    def rewind(self, step: int | None, positions: Mapping[str, int], best: int | None) -> None:
        """Back to the checkpoint of `step`, when the logs had `positions` bytes, or, without one, to the
        start. More than an interruption explains is kept in a folder of its own: later checkpoints,
        and the whole logs. Raises RunDirectoryError for a log that has become shorter."""
        logs = {name: self.path / f"{name}.jsonl" for name in LOGS}
        for name, log in logs.items():
            if log.stat().st_size < positions.get(name, 0):
                raise RunDirectoryError(
                    f"{log}: has {log.stat().st_size} bytes, fewer than the {positions[name]} it had at "
                    f"step {step}"
                )
        later = [one for one in self.checkpoints.steps() if step is not None and one > step]
        undone = max((row["step"] for row in read_metrics(self.path)), default=0) - (step or 0)
        if later or undone > self.checkpoint_every:
            numbers = [int(path.name.removeprefix(SUPERSEDED)) for path in self._superseded()]
            aside = self.path / f"{SUPERSEDED}{max(numbers, default=0) + 1}"
            aside.mkdir()
            for log in logs.values():
                shutil.copy(log, aside)
            self.checkpoints.move(later, aside)
        if step is not None:
            self.checkpoints.settle(step, best)
        self.logs.cut(positions)

    def _superseded(self) -> list[Path]:
        found = self.path.glob(f"{SUPERSEDED}*")
        return [path for path in found if path.name.removeprefix(SUPERSEDED).isdecimal()]

    def begin(self, args: AZRArgs) -> None:
        """config.json with the arguments alone, unless there is one, so that a run that dies while its
        model is loaded goes on with its own."""
        if not (self.path / "config.json").exists():
            self._write_config({"args": args.of_the_run()})

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
        config = {"args": args.of_the_run()}
        if resumed_at is None:
            config |= here
        else:
            config = {**here, **read_config_if_any(self.path), **config}
            config.setdefault("resumed", []).append({"step": resumed_at, **here})
        self._write_config(config)

    def _write_config(self, config: Mapping) -> None:
        text = json.dumps(config, indent=2, ensure_ascii=False)
        replace_text(self.path / "config.json", text)


def latest_checkpoint(run_dir: str | Path) -> Path:
    """The newest complete checkpoint of a run. Raises RunDirectoryError if there is none."""
    pointer = Path(run_dir) / "checkpoints" / "latest"
    if not pointer.is_file():
        raise RunDirectoryError(f"{run_dir}: is no run directory with a finished checkpoint")
    return pointer.parent / pointer.read_text(encoding="utf-8").strip()


def read_metrics(run_dir: str | Path) -> list[dict]:
    """The rows of metrics.jsonl. Raises RunDirectoryError if there is no such file, or it is damaged."""
    return _rows(run_dir, "metrics.jsonl")


def read_problems(run_dir: str | Path) -> list[dict]:
    """The rows of problems.jsonl. Raises RunDirectoryError if there is no such file, or it is damaged."""
    return _rows(run_dir, "problems.jsonl")


def read_if_any(run_dir: str | Path, name: str) -> list[dict]:
    """The rows of a log that older runs and those kept for their curves alone do not have."""
    return _rows(run_dir, name) if (Path(run_dir) / name).exists() else []


def read_config(run_dir: str | Path) -> dict:
    """config.json. Raises RunDirectoryError if there is no such file, or it is damaged."""
    config = _parse(_read(run_dir, "config.json"), f"{run_dir}/config.json")
    if not isinstance(config.get("args"), dict):
        raise RunDirectoryError(f"{run_dir}/config.json: must hold the arguments of a run")
    return config


def read_config_if_any(run_dir: str | Path) -> dict:
    """config.json; nothing where there is none that can be read."""
    try:
        return read_config(run_dir)
    except RunDirectoryError:
        return {}


def _rows(run_dir: str | Path, name: str) -> list[dict]:
    """Of a log; a last line without its end is no row yet."""
    whole = _read(run_dir, name).rpartition("\n")[0]
    lines = enumerate(whole.split("\n"), 1) if whole else ()
    return [_parse(line, f"{run_dir}/{name}, line {number}") for number, line in lines]


def _parse(text: str, where: str) -> dict:
    try:
        value = json.loads(text)
    except ValueError as error:
        raise RunDirectoryError(f"{where}: must be JSON, and is damaged ({error})") from error
    if not isinstance(value, dict):
        raise RunDirectoryError(f"{where}: must be a JSON object")
    return value


def _read(run_dir: str | Path, name: str) -> str:
    try:
        return (Path(run_dir) / name).read_text(encoding="utf-8")
    except OSError as error:
        raise RunDirectoryError(f"{run_dir}: must be a run directory; it has no {name}") from error
    except UnicodeDecodeError as error:
        raise RunDirectoryError(f"{run_dir}/{name}: must be UTF-8, and is damaged") from error


def _git_commit() -> str | None:
    """The commit this code stands at, "+" behind it where files differ; None outside git."""
    try:
        command = ["git", "-C", str(ROOT), "describe", "--always", "--abbrev=40", "--dirty=+"]
        return subprocess.run(command, capture_output=True, text=True, check=True).stdout.strip()
    except (OSError, subprocess.CalledProcessError):
        return None
