"""What the report shows, from the logs of runs: groups of runs that differ only in their seed, and the
numbers of each.
"""

import math
from collections import defaultdict
from collections.abc import Mapping, Sequence
from functools import cached_property
from pathlib import Path
from statistics import fmean

from constants import LAST_EVALUATIONS
from custom_types import TASKS
from model.args import CHANGEABLE, AZRArgs
from model.run.directory import (
    read_args,
    read_config,
    read_evaluations,
    read_metrics,
    read_problems,
    read_rollouts,
)

MOST_TRANSCRIPTS = 600  # on the page
LONGEST_NAME = 40  # of a group


class Run:
    """What a run has left in its folder `path`, each log read when it is first asked for, which raises
    RunDirectoryError. name: what a page calls it."""

    def __init__(self, path: str | Path, name: str):
        self.path, self.name = Path(path), name

    @cached_property
    def config(self) -> Mapping:
        return read_config(self.path)

    @cached_property
    def args(self) -> Mapping:
        """Those that a run of an older version does not know are the defaults."""
        return {**AZRArgs().as_dict(), **read_args(self.path)}

    @cached_property
    def metrics(self) -> Sequence[Mapping]:
        return read_metrics(self.path)

    @cached_property
    def problems(self) -> Sequence[Mapping]:
        return read_problems(self.path)

    @cached_property
    def evaluations(self) -> Sequence[Mapping]:
        return read_evaluations(self.path)

    @cached_property
    def rollouts(self) -> Sequence[Mapping]:
        return read_rollouts(self.path)


def read_runs(run_dirs: Sequence[str | Path]) -> list[Run]:
    """Runs by the names of their folders, or where two are the same, by their paths."""
    names = [Path(run_dir).resolve().name for run_dir in run_dirs]
    if len(set(names)) < len(names):
        names = list(map(str, run_dirs))
    return [Run(run_dir, name) for run_dir, name in zip(run_dirs, names, strict=True)]


def common_args(runs: Sequence[Run]) -> dict[str, object]:
    """The arguments that are the same in all runs."""
    first, *others = (run.args for run in runs)
    return {name: value for name, value in first.items() if all(o[name] == value for o in others)}


def groups(runs: Sequence[Run]) -> dict[str, list[Run]]:
    """Runs that differ in nothing but the seed and the day, by what sets them apart from the others, or by a letter
    where that is long."""
    one_group = CHANGEABLE | {"seed", "prompt_date"}
    found: dict[tuple, list[Run]] = defaultdict(list)
    for run in runs:
        key = tuple(
            sorted((name, str(value)) for name, value in run.args.items() if name not in one_group)
        )
        found[key].append(run)
    common = set.intersection(*(set(key) for key in found))
    named: dict[str, list[Run]] = {}
    for key, own in found.items():
        text = ", ".join(f"{name} {value}" for name, value in key if (name, value) not in common)
        text, letter = text or own[0].args["model"], chr(ord("A") + len(named))
        named[text if len(text) <= LONGEST_NAME else f"runs {letter}"] = own
    return named


def _last(rows: Sequence[Mapping], key: str) -> str:
    """The mean of the last evaluations, as text."""
    values = [row[key] for row in rows if row.get(key) is not None][-LAST_EVALUATIONS:]
    return f"{fmean(values):.2f}" if values else "-"


def run_row(group: str, run: Run) -> dict[str, str]:
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


def transcripts(runs: Sequence[Run]) -> list[dict]:
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
