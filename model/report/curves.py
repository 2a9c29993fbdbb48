"""Curves of several runs, brought together by step: logs go in, rows for a chart come out.

One run may have been evaluated more often than another, or be longer. What is said of all of them at a
step, a mean or a range, is said where each has that step: a mean of some runs here and of others there
jumps without any run having moved. Of runs with the values 1, 2, 3 at the steps 0, 10, 20 and 5, 7 at
the steps 0, 20, those are 3 at step 0 and 5 at step 20.
"""

import math
from collections.abc import Iterable, Mapping, Sequence
from statistics import fmean

DIGITS = 5


def curves(group: str, logs: Sequence[Sequence[Mapping]], keys: Iterable[str]) -> list[dict]:
    """A row for each step that all of `logs`, one a run, have, with `group` and `step`. It has each key
    that all logs have there: the mean, and of several runs `{key} low` and `{key} high`, the range; or
    None where one of them has nothing to measure, as a mean of the others would be of other runs."""
    by_step = [{row["step"]: row for row in log} for log in logs]
    common = set.intersection(*map(set, by_step))
    keys, rows = list(keys), []
    for step in sorted(common):
        row = {"group": group, "step": step}
        for key in keys:
            values = [of_run[step].get(key) for of_run in by_step if key in of_run[step]]
            if len(values) < len(logs):
                continue
            known = [value for value in values if value is not None]
            row[key] = rounded(fmean(known)) if len(known) == len(logs) else None
            if len(known) == len(logs) > 1:
                row[f"{key} low"] = rounded(min(known))
                row[f"{key} high"] = rounded(max(known))
        rows.append(row)
    return rows


def rounded(value: float) -> float:
    """To 5 significant digits: a page shows no more."""
    if value == 0 or not math.isfinite(value):
        return value
    return round(value, DIGITS - 1 - math.floor(math.log10(abs(value))))
