"""What counts of right answers say of policies, by task and band of primes: as rows, and as tables."""

from collections.abc import Collection, Mapping, Sequence

from rich.table import Column, Table

from compute.estimates import pass_at_k, wilson_interval
from constants import MAXIMUM_PRIME
from custom_types import TASKS, Problem
from model.args import AZRArgs
from prime_inversion import is_held_out, primes_between
from utils.tables import span_name

BAND_ENDS = (7, 13, 19, 31, 61, 127, 251, MAXIMUM_PRIME)  # the same for every range
ALL, SEEN, UNSEEN, HELD_OUT = "all", "seen", "unseen", "held out"  # of the training
PARTS = SEEN, UNSEEN, HELD_OUT  # of a run, beside the bands of primes

Scores = Mapping[Problem, int]  # how many of the k answers to a problem are right


def bands(min_prime: int, max_prime: int) -> dict[str, tuple[int, ...]]:
    """The primes of the range in bands, by their names: `5-7`, `11-13`, ..."""
    named, first = {}, min_prime
    for last in BAND_ENDS:
        primes = primes_between(first, min(last, max_prime)) if first <= max_prime else ()
        if primes:
            named[span_name(primes)] = tuple(primes)
        first = max(first, last + 1)
    return named


def score_rows(
    policy: str,
    scores: Scores,
    samples: int,
    args: AZRArgs,
    seen: Collection[Problem] | None = None,
    held_out: float = 0.0,
) -> list[dict]:
    """A row for each task and band that has problems: the chance that an answer is right, with its
    interval over problems, and with several samples pass@1 to pass@k. seen: of a run, what it has
    trained on; held_out: of a run, its share of problems that it never trains on."""
    rows, banded = [], bands(args.min_prime, args.max_prime)
    for task in TASKS:
        asked = [problem for problem in scores if problem.task is task]
        groups = {ALL: asked}
        for name, primes in banded.items():
            groups[name] = [problem for problem in asked if problem.p in primes]
        if seen is not None:
            groups[SEEN] = [problem for problem in asked if problem in seen]
            groups[UNSEEN] = [problem for problem in asked if problem not in seen]
            groups[HELD_OUT] = [problem for problem in asked if is_held_out(problem, held_out)]
        for band, problems in groups.items():
            n = len(problems)
            row: dict[str, object] = {"policy": policy, "task": str(task), "band": band}
            if n:
                right = [scores[problem] for problem in problems]
                accuracy = sum(right) / (samples * n)
                low, high = wilson_interval(accuracy, n)
                row |= {"accuracy": accuracy, "low": low, "high": high, "n": n}
                for k in range(1, samples + 1) if samples > 1 else ():
                    row[f"pass@{k}"] = sum(pass_at_k(samples, c, k) for c in right) / n
            else:
                row |= {"accuracy": None, "low": None, "high": None, "n": 0}
            rows.append(row)
    return rows


def _cell(row: Mapping) -> str:
    if not row["n"]:
        return "-"
    return f"{row['accuracy']:.2f}\n{row['low']:.2f}-{row['high']:.2f}"


def tables(rows: Sequence[Mapping], samples: int) -> list[Table]:
    """Accuracy by band of each task; what was trained on, where a run is among the policies; pass@k."""
    policies = list(dict.fromkeys(row["policy"] for row in rows))
    by_key = {(row["policy"], row["task"], row["band"]): row for row in rows}
    shown = []
    for task in map(str, TASKS):
        table = Table("primes", Column("n", justify="right"), title=task)
        for policy in policies:
            table.add_column(policy, justify="right", min_width=9, overflow="fold")
        for band in dict.fromkeys(row["band"] for row in rows):
            of_band = [by_key.get((policy, task, band), {"n": 0}) for policy in policies]
            if band not in PARTS and of_band[0]["n"]:
                table.add_row(band, str(of_band[0]["n"]), *map(_cell, of_band))
        shown.append(table)
    runs = [policy for policy in policies if (policy, str(TASKS[0]), SEEN) in by_key]
    if runs:
        table = Table("run", "task", title="accuracy on problems that a run has trained on, or not")
        for header in ("all", "share seen", "seen", "n", "unseen", "n", "held out", "n"):
            table.add_column(header, justify="right")
        for policy in runs:
            for task in map(str, TASKS):
                whole, *parts = (by_key[policy, task, band] for band in (ALL, *PARTS))
                share = f"{parts[0]['n'] / whole['n']:.0%}"
                cells = (cell for part in parts for cell in (_cell(part), str(part["n"])))
                table.add_row(policy, task, _cell(whole), share, *cells)
        shown.append(table)
    if samples > 1:
        ks = sorted({samples} | {2**power for power in range(7) if 2**power <= samples})
        table = Table("policy", "task", title=f"pass@k, of {samples} samples")
        for k in ks:
            table.add_column(f"{k}", justify="right", min_width=4)
        for policy in policies:
            for task in map(str, TASKS):
                row = by_key[policy, task, ALL]
                table.add_row(policy, task, *(f"{row[f'pass@{k}']:.2f}" for k in ks))
        shown.append(table)
    return shown
