"""What the report shows, from the logs of runs: groups of runs that differ only in their seed, and the
numbers of each.
"""

import math
from collections import defaultdict
from collections.abc import Mapping, Sequence
from statistics import fmean

from compute.symptoms import SYMPTOMS, warned_steps
from constants import LAST_EVALUATIONS
from custom_types import TASKS
from model.args import CHANGEABLE
from model.run.finished import FinishedRun

MOST_TRANSCRIPTS = 600  # on the page
LONGEST_NAME = 40  # of a group


def common_args(runs: Sequence[FinishedRun]) -> dict[str, object]:
    """The arguments that are the same in all runs."""
    first, *others = (run.args for run in runs)
    return {name: value for name, value in first.items() if all(o[name] == value for o in others)}


def groups(runs: Sequence[FinishedRun]) -> dict[str, list[FinishedRun]]:
    """Runs that differ in nothing but the seed and the day, by what sets them apart from the others, or by
    a letter where that is long."""
    one_group = CHANGEABLE | {"seed", "prompt_date"}
    found: dict[tuple, list[FinishedRun]] = defaultdict(list)
    for run in runs:
        key = tuple(
            sorted((name, str(value)) for name, value in run.args.items() if name not in one_group)
        )
        found[key].append(run)
    common = set.intersection(*(set(key) for key in found))
    named: dict[str, list[FinishedRun]] = {}
    for key, same in found.items():
        text = ", ".join(f"{name} {value}" for name, value in key if (name, value) not in common)
        text, letter = text or same[0].args["model"], chr(ord("A") + len(named))
        named[text if len(text) <= LONGEST_NAME else f"runs {letter}"] = same
    return named


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


def warning_rows(runs: Sequence[FinishedRun]) -> list[dict[str, str]]:
    """A line, as text, for each sign that a run went wrong: in which steps, and what may help."""
    rows = []
    for run in runs:
        for key, stretches in _warned(run).items():
            symptom = SYMPTOMS[key]
            named = (f"{first} to {last}" for first, last in stretches)
            what = {"run": run.name, "what was seen": symptom.said, "in steps": ", ".join(named)}
            rows.append({**what, "what to try": symptom.advice})
    return rows


def warned_stretches(runs: Sequence[FinishedRun]) -> list[tuple[int, int]]:
    """First and last step of each stretch in which any run had any warning; they do not touch."""
    joined: list[tuple[int, int]] = []
    for first, last in sorted(
        one for run in runs for stretches in _warned(run).values() for one in stretches
    ):
        if joined and first <= joined[-1][1] + 1:
            joined[-1] = joined[-1][0], max(last, joined[-1][1])
        else:
            joined.append((first, last))
    return joined


def _warned(run: FinishedRun) -> dict[str, list[tuple[int, int]]]:
    return warned_steps(run.metrics, run.args["batch_size"])


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
