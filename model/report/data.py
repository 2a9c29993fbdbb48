"""What the report shows, from the logs of runs: groups of runs that differ only in their seed, and the
numbers of each.
"""

import math
from collections import defaultdict
from collections.abc import Iterable, Iterator, Mapping, Sequence
from statistics import fmean

from compute.reward import compute_r_propose
from constants import LAST_EVALUATIONS
from custom_types import TASKS
from model.args import CHANGEABLE
from model.report.curriculum import given_number, phases
from model.run.finished import FinishedRun
from utils.tables import span_name

MOST_ROWS, MOST_COLUMNS = 32, 64  # of a map
MOST_TRANSCRIPTS = 600  # on the page
DIGITS = 5
LONGEST_NAME = 40  # of a group


def groups(runs: Sequence[FinishedRun]) -> dict[str, list[FinishedRun]]:
    """Runs that differ in nothing but the seed and the day, by what sets them apart from the others, or by a letter
    where that is long."""
    one_group = CHANGEABLE | {"seed", "prompt_date"}
    found: dict[tuple, list[FinishedRun]] = defaultdict(list)
    for run in runs:
        key = tuple(
            sorted((name, str(value)) for name, value in run.args.items() if name not in one_group)
        )
        found[key].append(run)
    common = set.intersection(*(set(key) for key in found))
    named: dict[str, list[FinishedRun]] = {}
    for key, own in found.items():
        text = ", ".join(f"{name} {value}" for name, value in key if (name, value) not in common)
        text, letter = text or own[0].args["model"], chr(ord("A") + len(named))
        named[text if len(text) <= LONGEST_NAME else f"runs {letter}"] = own
    return named


def curves(group: str, logs: Sequence[Sequence[Mapping]], keys: Iterable[str]) -> list[dict]:
    """A row a step that all of the runs have whose rows are `logs`: `group`, `step`, and of each key
    that all have there the mean, and the `low` and `high` of several runs."""
    by_step = [{row["step"]: row for row in log} for log in logs]
    common = set.intersection(*map(set, by_step))
    keys, rows = list(keys), []
    for step in sorted(common):
        row = {"group": group, "step": step}
        for key in keys:
            values = [own[step].get(key) for own in by_step]
            if None not in values:
                row[key] = rounded(fmean(values))
                if len(logs) > 1:
                    row[f"{key} low"] = rounded(min(values))
                    row[f"{key} high"] = rounded(max(values))
        rows.append(row)
    return rows


def _last(rows: Sequence[Mapping], key: str) -> str:
    """The mean of the last evaluations, as text."""
    values = [row[key] for row in rows if row.get(key) is not None][-LAST_EVALUATIONS:]
    return f"{fmean(values):.2f}" if values else "-"


def run_row(group: str, run: FinishedRun) -> dict[str, str]:
    """One line of the table of what was run, as text."""
    done = [row for row in run.metrics if row["step"]]
    reached = {}
    for task in TASKS:
        key = f"eval/accuracy_{task}"
        reached[f"accuracy, {task}"] = f"{_last(run.metrics[:1], key)} → {_last(run.metrics, key)}"
    return {
        "run": run.name,
        "what": group,
        "seed": str(run.args["seed"]),
        "steps": str(len(done)),
        "primes": f"{run.args['min_prime']} to {run.args['max_prime']}",
        **reached,
        "skipped updates": str(round(sum(row.get("skipped_updates", 0) for row in done))),
        "seconds of steps": f"{sum(row['step_time'] for row in done):.0f}",
    }


def rounded(value: float) -> float:
    """To 5 significant digits: a page shows no more."""
    if value == 0 or not math.isfinite(value):
        return value
    return round(value, DIGITS - 1 - math.floor(math.log10(abs(value))))


class Grid:
    """Cells of a map over (given number x, p): single problems, or where there are many, blocks of them."""

    def __init__(self, primes: Sequence[int]):
        size = math.ceil(len(primes) / MOST_ROWS)
        blocks = [primes[start : start + size] for start in range(0, len(primes), size)]
        self.labels = [span_name(own) for own in blocks]
        self.row = {p: text for text, own in zip(self.labels, blocks, strict=True) for p in own}
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
    """A row for each phase and cell (given number, p) proposed in it: how often, its share of the phase's valid
    proposals, and its mean solve rate."""
    rows = []
    for phase, proposed in _by_phase(runs, task):
        counts: dict[tuple[int, str], list[float]] = defaultdict(list)
        for x, y, p, times, rate in proposed:
            counts[grid.cell(given_number(task, x, y), p)] += [rate] * times
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
    """A row for each cell (given number, p) of the last evaluations: the share of its problems, and of the runs,
    that was answered, how many those are, and of a single one since which evaluation in a row."""
    right: dict[tuple[int, str], list[int]] = defaultdict(list)
    since: dict[tuple[int, str], int | str] = {}
    for run in runs:
        for row in run.evaluations:
            for x, y, p, correct in row[task]:
                cell = grid.cell(given_number(task, x, y), p)
                begun = row["step"] if since.get(cell, "never") == "never" else since[cell]
                since[cell] = begun if correct else "never"
        for row in run.evaluations[-1:]:
            for x, y, p, correct in row[task]:
                right[grid.cell(given_number(task, x, y), p)].append(correct)
    return [
        {
            **grid.place(cell),
            "solved": rounded(fmean(values)),
            "problems": len(values),
            **({"since step": since[cell]} if len(values) == 1 else {}),
        }
        for cell, values in right.items()
    ]


def transcripts(runs: Sequence[FinishedRun]) -> list[dict]:
    """Transcripts of steps spread evenly over each run, not more than a page can hold; `run` tells whose
    they are."""
    kept = []
    for run in runs:
        by_step: dict[int, list[Mapping]] = defaultdict(list)
        for row in run.rollouts:
            by_step[row["step"]].append(row)
        each = max(map(len, by_step.values()), default=1)
        wanted = max(1, MOST_TRANSCRIPTS // len(runs) // each)
        steps = sorted(by_step)
        stride = max(1, math.ceil(len(steps) / wanted))
        for step in dict.fromkeys([*steps[::stride], *steps[-1:]]):
            kept += [{"run": run.name, **row} for row in by_step[step]]
    return kept
