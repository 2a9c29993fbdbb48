"""What was proposed and what is solved, problem by problem: logs of runs go in, rows for charts come out.

A problem stands in a map by its p and the number that is given with it: y in abduction, whose answer is
x, and x elsewhere. A run has phases, so that a map of each shows how the proposals move.
"""

import math
from collections import defaultdict
from collections.abc import Iterator, Sequence
from statistics import fmean

from compute.reward import compute_r_propose
from custom_types import TASKS
from model.report.curves import rounded
from model.run.finished import FinishedRun
from prime_inversion import given_residue
from utils.tables import span_name

PHASE_ENDS = (0.1, 0.25, 0.5, 1.0)  # of the run
MOST_ROWS, MOST_COLUMNS = 32, 64  # of a map


def phases(steps: int) -> list[tuple[int, int]]:
    """First and last step of each phase that a run of so many steps has."""
    ends = sorted({max(1, round(share * steps)) for share in PHASE_ENDS}) if steps else []
    return list(zip([1, *(end + 1 for end in ends)], ends, strict=False))


class Grid:
    """Cells of a map over (given number x, p): single problems, or blocks where there are many."""

    def __init__(self, primes: Sequence[int]):
        size = math.ceil(len(primes) / MOST_ROWS)
        blocks = [primes[start : start + size] for start in range(0, len(primes), size)]
        self.labels = [span_name(block) for block in blocks]
        self.row = {p: text for text, block in zip(self.labels, blocks, strict=True) for p in block}
        self.width = math.ceil(max(primes) / MOST_COLUMNS)
        self.last = max(primes)

    def cell(self, x: int, p: int) -> tuple[int, str]:
        """Its least x, and its label on the axis of p."""
        return (x - 1) // self.width * self.width + 1, self.row[p]

    def place(self, cell: tuple[int, str]) -> dict:
        """A cell as a row of data: `x`, `from` and `to` on the axis of x, and `p`."""
        x, label = cell
        return {"x": x, "from": x - 0.5, "to": x - 0.5 + self.width, "p": label}


def _by_phase(runs: Sequence[FinishedRun], task: str) -> Iterator[tuple[str, list[Sequence]]]:
    """The name of each phase, and what was proposed in it, as problems.jsonl has it."""
    last_steps = [row["step"] for run in runs for row in run.problems[-1:]]
    for first, last in phases(max(last_steps, default=0)):
        steps = [row for run in runs for row in run.problems if first <= row["step"] <= last]
        yield f"steps {first} to {last}", [item for row in steps for item in row[task]]


def proposals(runs: Sequence[FinishedRun], task: str, grid: Grid) -> list[dict]:
    """A row for each phase and cell (given number, p) proposed in it: how often, its share of the phase's
    valid proposals, and its mean solve rate."""
    rows = []
    for phase, proposed in _by_phase(runs, task):
        counts: dict[tuple[int, str], list[float]] = defaultdict(list)
        for x, y, p, times, rate in proposed:
            counts[grid.cell(given_residue(task, x, y), p)] += [rate] * times
        total = sum(map(len, counts.values()))
        rows += [
            {
                "phase": phase,
                **grid.place(cell),
                "times": len(rates),
                "share": rounded(len(rates) / total),
                "solve rate": rounded(fmean(rates)),
            }
            for cell, rates in counts.items()
            if rates
        ]
    return rows


def solve_rates(runs: Sequence[FinishedRun], task: str) -> list[dict]:
    """A row for each phase and solve rate that attempts can have: its share of the valid proposals, and
    its learnability."""
    args, rows = runs[0].args, []
    n, extreme = args["n_attempts"], args["extreme_reward"]
    for phase, proposed in _by_phase(runs, task):
        counts = [0] * (n + 1)
        for *_, times, rate in proposed:
            counts[round(rate * n)] += times
        total = sum(counts)
        rows += [
            {
                "phase": phase,
                "solve rate": rounded(level / n),
                "share": rounded(count / total),
                "learnability": compute_r_propose(level / n, extreme_reward=extreme),
            }
            for level, count in enumerate(counts)
            if total
        ]
    return rows


def learnability(run: FinishedRun) -> list[dict]:
    """A row a step: of each task the mean learnability of the valid proposals."""
    extreme, rows = run.args["extreme_reward"], []
    for row in run.problems:
        values = {"step": row["step"]}
        for task in map(str, TASKS):
            rates = [rate for *_, times, rate in row[task] for _ in range(times)]
            if rates:
                each = (compute_r_propose(rate, extreme_reward=extreme) for rate in rates)
                values[f"learnability/{task}"] = fmean(each)
        rows.append(values)
    return rows


def solved(runs: Sequence[FinishedRun], task: str, grid: Grid) -> list[dict]:
    """A row for each cell (given number, p) of the last evaluations: the share of its problems, and of the
    runs, that was answered, how many those are, and of a single one since which evaluation in a row."""
    right: dict[tuple[int, str], list[int]] = defaultdict(list)
    since: dict[tuple[int, str], int | str] = {}
    for run in runs:
        for row in run.evaluations:
            for x, y, p, correct in row[task]:
                cell = grid.cell(given_residue(task, x, y), p)
                begun = row["step"] if since.get(cell, "never") == "never" else since[cell]
                since[cell] = begun if correct else "never"
        for row in run.evaluations[-1:]:
            for x, y, p, correct in row[task]:
                right[grid.cell(given_residue(task, x, y), p)].append(correct)
    return [
        {
            **grid.place(cell),
            "solved": rounded(fmean(values)),
            "problems": len(values),
            **({"since step": since[cell]} if len(values) == 1 else {}),
        }
        for cell, values in right.items()
    ]
