"""The logs of a run: metrics, transcripts, problems, evaluations. One JSON object a line, flushed line
by line, so that a run that dies leaves every step it finished.

A checkpoint records the position of each log, `[bytes, SHA-256 of them]`, so that a run is resumed
with the very logs it wrote, or not at all.
"""

import fcntl
import hashlib
import json
import math
from collections import Counter
from collections.abc import Mapping, Sequence
from itertools import zip_longest
from pathlib import Path

from custom_types import CELLS, TASKS, Learned, Problem, Round, Scored, Verdict
from model.run.layout import LOGS
from utils.files import sync_open


class Log:
    """A file of one JSON object a line, which is appended to. It is hashed as it grows."""

    def __init__(self, path: Path):
        self.path, self._file = path, open(path, "ab")
        self._take(self._file.tell())

    def _take(self, size: int) -> None:
        """Count and hash the first `size` bytes as the log."""
        self.size, self._sum = size, hashlib.sha256(_head(self.path, size))

    def append(self, row: Mapping) -> None:
        """Write one line. Raises OSError, which names the file."""
        text = json.dumps(row, ensure_ascii=False, allow_nan=False) + "\n"
        line = text.encode("utf-8", "backslashreplace")  # a lone surrogate is no UTF-8
        try:
            self._file.write(line)
            self._file.flush()
        except OSError as error:
            raise OSError(error.errno, error.strerror, str(self.path)) from error
        self.size += len(line)
        self._sum.update(line)

    def position(self) -> list:
        """`[bytes, SHA-256 of them]` so far; the disk keeps these bytes from here on."""
        sync_open(self._file.fileno())
        return [self.size, self._sum.hexdigest()]

    def cut(self, size: int) -> None:
        """Delete what comes after the first `size` bytes."""
        self._file.truncate(size)
        self._take(size)

    def lock(self) -> bool:
        """Take the file for this process, until it ends; whether no other process has it."""
        try:
            fcntl.flock(self._file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            return False
        except OSError:  # a file system without locks
            pass
        return True

    def close(self) -> None:
        self._file.close()


class Logs:
    """The four logs in a folder, opened. Raises OSError where one cannot be."""

    def __init__(self, folder: Path):
        self._all = {name: Log(folder / f"{name}.jsonl") for name in LOGS}
        self.metrics, self.rollouts, self.problems, self.evaluations = self._all.values()

    def lock(self) -> bool:
        """Take the logs for this process; whether no other process writes them."""
        return self.metrics.lock()

    def positions(self) -> dict[str, list]:
        """The position of each log, by its name; the disk keeps what is in them from here on."""
        return {name: log.position() for name, log in self._all.items()}

    def cut(self, positions: Mapping[str, list | int]) -> None:
        """Return each log to its position among `positions`; a log without one becomes empty."""
        for name, log in self._all.items():
            log.cut(position_of(name, positions)[0])

    def longer_than(self, positions: Mapping[str, list | int]) -> list[Path]:
        """The files that `cut` would delete something from."""
        return [
            log.path
            for name, log in self._all.items()
            if log.size > position_of(name, positions)[0]
        ]

    def close(self) -> None:
        for log in self._all.values():
            log.close()

    def log_metrics(self, metrics: Mapping[str, float]) -> None:
        """One line of metrics.jsonl, `step` first; NaN and infinities are null."""
        ordered = {"step": metrics["step"], **{key: metrics[key] for key in sorted(metrics)}}
        self.metrics.append({key: _finite_or_none(value) for key, value in ordered.items()})

    def log_rollouts(self, step: int, learned: Learned, tokenizer, n: int) -> None:
        """At most `n` lines of rollouts.jsonl, of what a step trained on: the first of each cell, then
        the second, and so on."""
        by_cell: list[list[tuple[Scored, float]]] = [[] for _ in CELLS]
        for scored, advantage in zip(learned.scored, learned.advantages, strict=True):
            by_cell[scored.rollout.cell].append((scored, advantage))
        rounds = zip_longest(*by_cell)  # the first of each cell, the second of each, ...
        ordered = [pair for pairs in rounds for pair in pairs if pair is not None]
        for scored, advantage in ordered[:n]:
            transcript = {
                "step": step,
                "role": scored.rollout.role,
                "task": scored.rollout.task,
                "prompt": tokenizer.decode(scored.rollout.prompt_ids),
                "response": scored.rollout.text,
                "verdict": scored.verdict,
                "reward": scored.reward,
                "advantage": advantage,
            }
            self.rollouts.append(transcript)

    def log_problems(self, step: int, played: Round) -> None:
        """One line of problems.jsonl: by task, `[x, y, p, times proposed, solve rate]` of each problem
        that was attempted n times in a step."""
        times_proposed = Counter(item.proposed for item in played.proposals)
        by_task: dict[str, list[list]] = {str(task): [] for task in TASKS}
        for problem, rate in played.solve_rates.items():
            x, y, p = problem.x, problem.y, problem.p
            by_task[problem.task].append([x, y, p, times_proposed[problem], rate])
        self.problems.append({"step": step, **by_task})

    def log_evaluation(self, row: Mapping) -> None:
        """One line of evaluations.jsonl, as `evaluation_row` makes it."""
        self.evaluations.append(row)


def evaluation_row(step: int, verdicts: Sequence[tuple[Problem, Verdict]]) -> dict:
    """By task, `[x, y, p, 1 or 0]` of each evaluation problem, 1 if it was answered correctly."""
    by_task: dict[str, list[list]] = {str(task): [] for task in TASKS}
    for problem, verdict in verdicts:
        x, y, p = problem.x, problem.y, problem.p
        by_task[problem.task].append([x, y, p, int(verdict is Verdict.CORRECT)])
    return {"step": step, **by_task}


def position_of(name: str, positions: Mapping[str, list | int]) -> tuple[int, str | None]:
    """The position of a log as bytes and SHA-256: (0, None) where `positions` has none, and no SHA-256
    where an older version counted bytes alone."""
    found = positions.get(name, 0)
    return (found, None) if isinstance(found, int) else (found[0], found[1])


def log_damage(folder: Path, positions: Mapping[str, list | int], step: int) -> str | None:
    """A sentence on why the logs in a folder are not those beside which the checkpoint of `step` was
    written, which has their `positions`; None where they are."""
    for name in LOGS:
        path, (size, written) = folder / f"{name}.jsonl", position_of(name, positions)
        try:
            found = _head(path, size)
        except FileNotFoundError:
            found = b""
        except OSError as error:
            return f"{path}: cannot be read ({error.strerror})"
        if len(found) < size:
            return f"{path}: has {len(found)} bytes, fewer than the {size} it had at step {step}"
        whole_lines = not size or found.endswith(b"\n")
        if not whole_lines or written not in (None, hashlib.sha256(found).hexdigest()):
            return f"{path}: its first {size} bytes are not what was written up to step {step}"
    return None


def _head(path: Path, size: int) -> bytes:
    with open(path, "rb") as file:
        return file.read(size)


def _finite_or_none(value: float) -> float | None:
    return None if isinstance(value, float) and not math.isfinite(value) else value
