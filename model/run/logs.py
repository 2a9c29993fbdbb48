"""The logs of a run: metrics, transcripts, problems, evaluations. One JSON object a line, flushed line
by line, so that a run that dies leaves every step it finished.

A checkpoint records of each log where it was, `[bytes, SHA-256 of them]`, so that a run goes on with
the very logs it wrote, or not at all.
"""

import fcntl
import hashlib
import json
import math
from collections import Counter
from collections.abc import Mapping, Sequence
from pathlib import Path

from custom_types import CELLS, TASKS, Learned, Problem, Round, Scored, Verdict
from utils.files import sync_open

LOGS = ("metrics", "rollouts", "problems", "evaluations")


class Log:
    """A file of one JSON object a line."""

    def __init__(self, path: Path):
        self.path, self._file = path, open(path, "ab")
        self._take(self._file.tell())

    def _take(self, size: int) -> None:
        """Be a log of its first `size` bytes."""
        self.size, self._sum = size, hashlib.sha256(_head(self.path, size))

    def append(self, row: Mapping) -> None:
        """Raises OSError."""
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
        """Bytes so far, which the disk keeps from here on, and their SHA-256."""
        sync_open(self._file.fileno())
        return [self.size, self._sum.hexdigest()]

    def cut(self, size: int) -> None:
        """Forget what comes after the first `size` bytes."""
        self._file.truncate(size)
        self._take(size)

    def lock(self) -> bool:
        """Whether no other process has it; one that dies has it no more."""
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
    """`metrics.jsonl`, `rollouts.jsonl`, `problems.jsonl` and `evaluations.jsonl` in a folder. Raises
    OSError."""

    def __init__(self, folder: Path):
        self._all = {name: Log(folder / f"{name}.jsonl") for name in LOGS}
        self.metrics, self.rollouts, self.problems, self.evaluations = self._all.values()

    def lock(self) -> bool:
        """Whether no other process writes these."""
        return self.metrics.lock()

    def positions(self) -> dict[str, list]:
        """Of each the bytes in it, which the disk keeps from here on, and their SHA-256."""
        return {name: log.position() for name, log in self._all.items()}

    def cut(self, positions: Mapping[str, list | int]) -> None:
        """Back to what `positions` returned; to nothing where it names none."""
        for name, log in self._all.items():
            log.cut(recorded(positions, name)[0])

    def longer_than(self, positions: Mapping[str, list | int]) -> list[Path]:
        """Those that `cut` would take something from."""
        return [
            log.path for name, log in self._all.items() if log.size > recorded(positions, name)[0]
        ]

    def close(self) -> None:
        for log in self._all.values():
            log.close()

    def log_metrics(self, metrics: Mapping[str, float]) -> None:
        """One line of metrics.jsonl, `step` first; NaN and infinities are null."""
        row = {"step": metrics["step"], **{key: metrics[key] for key in sorted(metrics)}}
        row = {key: _finite_or_none(value) for key, value in row.items()}
        self.metrics.append(row)

    def log_rollouts(self, step: int, learned: Learned, tokenizer, n: int) -> None:
        """At most `n` transcripts of what a step trained on: the first of each cell, then the second, and
        so on."""
        by_cell: list[list[tuple[Scored, float]]] = [[] for _ in CELLS]
        for item, advantage in zip(learned.scored, learned.advantages, strict=True):
            by_cell[item.rollout.cell].append((item, advantage))
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
            self.rollouts.append(row)

    def log_problems(self, step: int, played: Round) -> None:
        """One line of problems.jsonl: by task, `[x, y, p, times proposed, solve rate]` of each
        problem that was attempted n times in a step."""
        proposed = Counter(item.proposed for item in played.proposals)
        row = {"step": step} | {str(task): [] for task in TASKS}
        for p, rate in played.solve_rates.items():
            row[str(p.task)].append([p.x, p.y, p.p, proposed[p], rate])
        self.problems.append(row)

    def log_evaluation(self, step: int, verdicts: Sequence[tuple[Problem, Verdict]]) -> None:
        """One line of evaluations.jsonl where there are verdicts: by task, `[x, y, p, 1 or 0]` of each
        evaluation problem, 1 if it was answered correctly."""
        if verdicts:
            row = {"step": step} | {str(task): [] for task in TASKS}
            for p, verdict in verdicts:
                row[str(p.task)].append([p.x, p.y, p.p, int(verdict is Verdict.CORRECT)])
            self.evaluations.append(row)


def recorded(positions: Mapping[str, list | int], name: str) -> tuple[int, str | None]:
    """Bytes and SHA-256 that `positions` has of a log: (0, None) where it has none, and no SHA-256
    where an older version counted bytes alone."""
    found = positions.get(name, 0)
    return (found, None) if isinstance(found, int) else (found[0], found[1])


def log_damage(folder: Path, positions: Mapping[str, list | int], step: int) -> str | None:
    """Why the logs in a folder are not those that `positions`, of a checkpoint after `step`, speak of,
    in a sentence; None where they are."""
    for name in LOGS:
        path, (size, written) = folder / f"{name}.jsonl", recorded(positions, name)
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


def _finite_or_none(value):
    return None if isinstance(value, float) and not math.isfinite(value) else value
