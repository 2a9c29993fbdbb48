"""Tables of finished runs, from their logs: what they reached, what their proposers did, what it took.

    python model/eval/summary.py RUN_DIR [RUN_DIR ...]

Accuracy is greedy over the evaluation problems; what counts, at the end and as a peak, is the mean of
three evaluations in a row. Markdown on stdout.
"""

import sys
from bisect import bisect_left
from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from statistics import fmean, median

if __name__ == "__main__":
    sys.path[0] = str(Path(__file__).resolve().parents[2])  # runs from any folder

import numpy as np

from compute.estimates import wilson_interval
from constants import LAST_EVALUATIONS, MAXIMUM_PRIME
from custom_types import TASKS, TaskType
from model.eval.scores import bands
from model.flags import ArgumentError, Flags, parse, positional
from model.run.finished import FinishedRun, evaluated_rows
from model.run.rows import Row, RunDirectoryError
from prime_inversion import (
    all_problems,
    best_constant,
    best_without_p,
    evaluated_problems,
    primes_between,
)
from utils.tables import markdown_table

LAST_STEPS = 20
FALL_STEPS = 50
DISTINCT_STEPS = 25
LENGTHS = (5, 10, 20, 40, 80, MAXIMUM_PRIME - 1)  # the longest list of each row
Answers = dict[str, dict[TaskType, list[int]]]  # by row and task, 1 where correct


@dataclass(frozen=True)
class SummaryArgs(Flags):
    """The command line."""

    run_dirs: tuple[str, ...] = positional("RUN_DIR", "finished runs")


def steps_of(run: FinishedRun) -> list[Row]:
    """The rows of its metrics without the first, which is from before training."""
    return run.metrics[1:]


def fall(run: FinishedRun) -> float | None:
    """How far accuracy, mean of the tasks, was below its earlier peak in the last 50 steps."""
    evaluated = evaluated_rows(run.metrics)
    accuracy = [row["eval/accuracy"] for row in evaluated]
    smooth = np.convolve(accuracy, np.ones(LAST_EVALUATIONS) / LAST_EVALUATIONS, "valid")
    peaks = np.maximum.accumulate(smooth)
    recent = [row["step"] > len(steps_of(run)) - FALL_STEPS for row in evaluated]
    falls = (peaks - smooth)[recent[LAST_EVALUATIONS - 1 :]]
    return falls.max() if len(falls) else None


def mean_reward(run: FinishedRun, task: TaskType) -> tuple[float, float] | None:
    """What the proposer earned on average over the whole run, and what uniform drawing would have
    earned in the same steps (evaluations, interpolated); None where nothing was proposed."""
    rewards = [row[f"reward/proposer_{task}"] for row in steps_of(run)]
    if None in rewards or not rewards:
        return None
    key = f"eval/uniform_reward_{task}"
    known = [row for row in evaluated_rows(run.metrics) if row.get(key) is not None]
    if not known:
        return fmean(rewards), float("nan")
    uniform = np.interp(
        [row["step"] for row in steps_of(run)],
        [row["step"] for row in known],
        [row[key] for row in known],
    )
    return fmean(rewards), float(uniform.mean())


def least_distinct(run: FinishedRun, task: TaskType) -> float | None:
    """Distinct problems proposed in 25 steps in a row, over the problems there are or, where those are
    fewer, over the unsolved ones: the least of any window."""
    space = len(all_problems(task, run.args["min_prime"], run.args["max_prime"]))
    accuracy = {row["step"]: row[f"eval/accuracy_{task}"] for row in evaluated_rows(run.metrics)}
    shares = []
    for end in range(DISTINCT_STEPS, len(run.problems) + 1):
        window = run.problems[end - DISTINCT_STEPS : end]
        distinct = {(x, y, p) for row in window for x, y, p, times, _ in row[task] if times}
        last = max(step for step in accuracy if step <= end)
        unsolved = round(space * (1 - accuracy[last]))
        if unsolved:
            shares.append(len(distinct) / min(space, unsolved))
    return min(shares, default=None)


def results_row(run: FinishedRun) -> dict[str, str]:
    """Accuracy, how much of it was lost, and time."""
    steps, evaluated = steps_of(run), evaluated_rows(run.metrics)
    return {
        "seed": str(run.args["seed"]),
        "steps": str(len(steps)),
        "accuracy before": _each_task(evaluated[:1], "eval/accuracy_"),
        "accuracy after": _each_task(evaluated[-LAST_EVALUATIONS:], "eval/accuracy_"),
        "below its peak": _text(fall(run)),
        "seconds": f"{sum(row['step_time'] + row.get('time/eval', 0) for row in steps):.0f}",
        "completions/s": f"{median(row['perf/completions_per_second'] for row in steps):.0f}"
        if steps
        else "-",
    }


def proposer_row(run: FinishedRun) -> dict[str, str]:
    """Valid proposals, mean rewards beside those of uniform drawing, and diversity."""
    steps = steps_of(run)
    earned = [mean_reward(run, task) for task in TASKS]
    known = [item for item in earned if item is not None]
    return {
        "seed": str(run.args["seed"]),
        "valid at step 1": _each_task(steps[:1], "valid_frac/"),
        "valid at the end": _each_task(steps[-LAST_STEPS:], "valid_frac/"),
        "mean reward": " ".join(_text(reward) for reward, _ in known) or "-",
        "uniform drawing": " ".join(_text(uniform) for _, uniform in known) or "-",
        "least distinct": " ".join(_text(least_distinct(run, task)) for task in TASKS),
    }


def certainty_rows(run: FinishedRun) -> list[dict[str, str]]:
    """By task and for all: the first and the last evaluation with 95% Wilson intervals, the best answer
    that never changes, the best table that ignores p, and the form of responses over the last tenth of
    the run."""
    span = run.args["min_prime"], run.args["max_prime"], run.args["held_out"]
    spaces = {task: evaluated_problems(task, *span) for task in TASKS}
    most = run.args["eval_problems"]
    asked = {task: min(len(problems), most) for task, problems in spaces.items()}
    constant = {task: best_constant(task, *span) for task in TASKS}
    steps, evaluated = steps_of(run), evaluated_rows(run.metrics)
    tenth = steps[-max(1, len(steps) // 10) :]
    rows = []
    for tasks in (*((task,) for task in TASKS), TASKS):
        count = sum(asked[task] for task in tasks)
        right = [
            round(sum(row[f"eval/accuracy_{task}"] * asked[task] for task in tasks))
            for row in (evaluated[0], evaluated[-1])
        ]
        best = sum(constant[task] * asked[task] for task in tasks) / count
        rows.append(
            {
                "seed": str(run.args["seed"]),
                "task": tasks[0] if len(tasks) == 1 else "all",
                "problems": str(count),
                "first evaluation": _share(right[0], count),
                "last evaluation": _share(right[1], count),
                "best constant": _text(best),
                "best without p": _text(best_without_p(tasks[0], *span))
                if len(tasks) == 1
                else "-",
                "malformed answers": _mean(tenth, [f"malformed_frac/solver_{t}" for t in tasks]),
                "valid proposals": _mean(tenth, [f"valid_frac/{t}" for t in tasks]),
            }
        )
    return rows


def generalisation_rows(runs: Sequence[FinishedRun]) -> list[list[dict[str, str]]]:
    """Two tables of the last evaluations of runs that hold problems out, all runs together: accuracy by
    band of primes, and by how many candidates a list from the smallest on has up to the answer, which
    is how many steps `reasoner` takes to it. With the number of answers."""
    by_band: Answers = defaultdict(lambda: defaultdict(list))
    by_length: Answers = defaultdict(lambda: defaultdict(list))
    for run in runs:
        if not (run.args["held_out"] and run.evaluations):
            continue
        span = run.args["min_prime"], run.args["max_prime"]
        primes = primes_between(*span)
        band_of = {p: name for name, members in bands(*span).items() for p in members}
        for task in TASKS:
            for x, y, p, correct in run.evaluations[-1][str(task)]:
                answers = {"x": x, "y": y, "p": 1 + primes.index(p)}
                length = answers[task.asked]
                by_band[band_of[p]][task].append(correct)
                by_length[_length(length)][task].append(correct)
    lengths = {_length(most): by_length[_length(most)] for most in LENGTHS}
    return [_counted("primes", by_band), _counted("candidates up to the answer", lengths)]


def _length(candidates: int) -> str:
    """The row of a table that so many candidates belong to: `6-10` of 7."""
    place = bisect_left(LENGTHS, candidates)
    return f"{LENGTHS[place - 1] + 1 if place else 1}-{LENGTHS[place]}"


def _counted(head: str, groups: Mapping[str, Mapping[TaskType, list[int]]]) -> list[dict[str, str]]:
    """A row for each group that has answers: the share that is correct of each task, and their number."""
    return [
        {head: name}
        | {
            str(task): f"{fmean(of_task[task]):.2f} of {len(of_task[task]):,}"
            if task in of_task
            else "-"
            for task in TASKS
        }
        for name, of_task in groups.items()
        if of_task
    ]


def _share(right: int, count: int) -> str:
    """A share with its 95% interval, as text."""
    low, high = wilson_interval(right / count, count)
    return f"{right / count:.2f} ({low:.2f} to {high:.2f})"


def _mean(rows: Sequence[Row], keys: Sequence[str]) -> str:
    """The mean of the known values under all of the keys, as text."""
    known = [row[key] for row in rows for key in keys if row[key] is not None]
    return f"{fmean(known):.3f}" if known else "-"


def _text(value: float | None) -> str:
    return "-" if value is None or np.isnan(value) else f"{value:.2f}"


def _each_task(rows: Sequence[Mapping], key: str) -> str:
    """Of each task the mean of the known values, as text."""
    means = []
    for task in TASKS:
        values = [row[f"{key}{task}"] for row in rows]
        known = [value for value in values if value is not None]
        means.append(f"{fmean(known):.2f}" if known else "-")
    return " ".join(means)


def main(argv: Sequence[str]) -> int:
    """Exit status: 0, or 2 after one sentence on stderr about what cannot be read."""
    try:
        given = parse(SummaryArgs, argv, about=__doc__)
        runs = [FinishedRun(run_dir) for run_dir in given.run_dirs]
        tables = [[results_row(run) for run in runs], [proposer_row(run) for run in runs]]
        tables.append(
            [row for run in runs if evaluated_rows(run.metrics) for row in certainty_rows(run)]
        )
        tables += generalisation_rows(runs)
    except (ArgumentError, RunDirectoryError) as error:
        print(error, file=sys.stderr)
        return 2
    print("\n".join(markdown_table(rows) for rows in tables if rows), end="")
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
