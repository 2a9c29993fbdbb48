"""The folder of a run: configuration, metrics, transcripts, plots, checkpoints.

Never writes into a folder that holds anything; what it appends is flushed line by line, so that a
run that dies leaves every step it finished.
"""

import json
import math
import os
import platform
import shutil
import subprocess
from collections import Counter
from collections.abc import Mapping, Sequence
from datetime import datetime
from importlib.metadata import version
from pathlib import Path

from constants import ROOT, RUNS_DIR
from custom_types import CELLS, TASKS, Policy, Round, Scored
from model.args import AZRArgs


class RunDirectoryError(Exception):
    """A run directory that cannot be used; the message is one sentence for the user."""


class RunDirectory:
    """`path` and what is written below it. Raises RunDirectoryError where it is not new or empty."""

    def __init__(self, args: AZRArgs):
        if args.run_dir is not None:
            self.path, flag = Path(args.run_dir), f"--run-dir {args.run_dir}"
        else:
            stamp = datetime.now().strftime("%Y%m%d-%H%M%S-%f")[:-3]
            name = args.run_name or f"{stamp}-seed{args.seed}"
            self.path, flag = RUNS_DIR / name, f"--run-name {name}"
        self._is_new = not self.path.exists()
        try:
            self.path.mkdir(parents=True, exist_ok=True)
            if any(self.path.iterdir()):
                raise RunDirectoryError(
                    f"{flag}: the folder must be empty or not exist, and holds files"
                )
            (self.path / "plots").mkdir()
            (self.path / "checkpoints").mkdir()
        except OSError as error:
            raise RunDirectoryError(
                f"{flag}: must be a folder that can be written ({error.strerror})"
            ) from error
        self._metrics = open(self.path / "metrics.jsonl", "w", encoding="utf-8")
        self._rollouts = open(self.path / "rollouts.jsonl", "w", encoding="utf-8")
        self._problems = open(self.path / "problems.jsonl", "w", encoding="utf-8")

    def close(self) -> None:
        """Close the logs."""
        self._metrics.close()
        self._rollouts.close()
        self._problems.close()

    def discard(self) -> None:
        """Leave no trace of a run that could not start."""
        self.close()
        for child in self.path.iterdir():
            shutil.rmtree(child) if child.is_dir() else child.unlink()
        if self._is_new:
            self.path.rmdir()

    def write_config(self, args: AZRArgs, device: str) -> None:
        """config.json: resolved arguments, library versions, git commit, device."""
        libraries = ("torch", "transformers", "accelerate")
        config = {
            "args": args.as_dict(),
            "versions": {
                "python": platform.python_version(),
                **{name: version(name) for name in libraries},
            },
            "git_commit": _git_commit(),
            "device": device,
        }
        text = json.dumps(config, indent=2, ensure_ascii=False)
        (self.path / "config.json").write_text(text + "\n", encoding="utf-8")

    def log_metrics(self, metrics: Mapping[str, float]) -> None:
        """One line of metrics.jsonl, `step` first; NaN and infinities are null."""
        row = {"step": metrics["step"], **{key: metrics[key] for key in sorted(metrics)}}
        row = {key: _finite_or_none(value) for key, value in row.items()}
        _append(self._metrics, row)

    def log_rollouts(
        self, step: int, trained: Sequence[tuple[Scored, float]], tokenizer, n: int
    ) -> None:
        """At most `n` transcripts of a step, of rollouts and their advantages: the first of each cell,
        then the second, and so on."""
        by_cell = [
            [row for row in trained if row[0].rollout.cell == cell] for cell in range(len(CELLS))
        ]
        depth = max(map(len, by_cell), default=0)
        ordered = [own[level] for level in range(depth) for own in by_cell if level < len(own)]
        for item, advantage in ordered[:n]:
            row = {
                "step": step,
                "role": item.rollout.role,
                "task": item.rollout.task,
                "prompt": tokenizer.decode(item.rollout.prompt_ids),
                "response": item.rollout.text,
                "verdict": item.verdict,
                "reward": item.reward,
                "advantage": advantage,
            }
            _append(self._rollouts, row)

    def log_problems(self, step: int, played: Round | None) -> None:
        """One line of problems.jsonl: by task, `[x, y, p, times proposed, solve rate]` of each
        problem that was attempted n times in a step."""
        if played is None:
            return
        proposed = Counter(problem for _, problem in played.proposals)
        row = {"step": step} | {str(task): [] for task in TASKS}
        for p, rate in played.solve_rates.items():
            row[str(p.task)].append([p.x, p.y, p.p, proposed[p], rate])
        _append(self._problems, row)

    def save_checkpoint(self, policy: Policy, step: int, weights: dict | None = None) -> Path:
        """checkpoints/step_NNNNNN, a Hugging Face folder; complete before it has its name. weights: a
        state dict to save in place of the model's own."""
        folder = self.path / "checkpoints" / f"step_{step:06d}"
        hidden = folder.with_name(f".{folder.name}.partial")
        policy.model.save_pretrained(hidden, state_dict=weights)
        policy.tokenizer.save_pretrained(hidden)
        hidden.rename(folder)
        pointer = folder.with_name(".latest.partial")
        pointer.write_text(folder.name + "\n", encoding="utf-8")
        os.replace(pointer, folder.with_name("latest"))
        return folder


def latest_checkpoint(run_dir: str | Path) -> Path:
    """The newest complete checkpoint of a run. Raises RunDirectoryError if there is none."""
    pointer = Path(run_dir) / "checkpoints" / "latest"
    if not pointer.is_file():
        raise RunDirectoryError(f"{run_dir}: is no run directory with a finished checkpoint")
    return pointer.parent / pointer.read_text(encoding="utf-8").strip()


def read_metrics(run_dir: str | Path) -> list[dict]:
    """The rows of metrics.jsonl. Raises RunDirectoryError if there is no such file."""
    return [json.loads(line) for line in _read(run_dir, "metrics.jsonl").splitlines()]


def read_problems(run_dir: str | Path) -> list[dict]:
    """The rows of problems.jsonl. Raises RunDirectoryError if there is no such file."""
    return [json.loads(line) for line in _read(run_dir, "problems.jsonl").splitlines()]


def read_config(run_dir: str | Path) -> dict:
    """config.json. Raises RunDirectoryError if there is no such file."""
    return json.loads(_read(run_dir, "config.json"))


def _read(run_dir: str | Path, name: str) -> str:
    try:
        return (Path(run_dir) / name).read_text(encoding="utf-8")
    except OSError as error:
        raise RunDirectoryError(f"{run_dir}: must be a run directory; it has no {name}") from error


def _append(file, row: dict) -> None:
    file.write(json.dumps(row, ensure_ascii=False, allow_nan=False) + "\n")
    file.flush()


def _finite_or_none(value):
    return None if isinstance(value, float) and not math.isfinite(value) else value


def _git_commit() -> str | None:
    """The commit this code stands at, "+" behind it where files differ; None outside git."""
    try:
        command = ["git", "-C", str(ROOT), "describe", "--always", "--abbrev=40", "--dirty=+"]
        return subprocess.run(command, capture_output=True, text=True, check=True).stdout.strip()
    except (OSError, subprocess.CalledProcessError):
        return None
