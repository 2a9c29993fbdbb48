"""Paired comparisons of conditions that ran with the same seeds: numbers by seed in, intervals out.

A contrast is the mean over seeds of the differences of two conditions, with its 95% bootstrap interval
and the p of the sign-flip test, which asks how often signs drawn at random give a mean as far from 0.
Several contrasts share one error rate by Holm's correction.
"""

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
from scipy import stats

RESAMPLES = 9_999
SEED = 0  # of the resampling, so that the same numbers give the same interval


class Contrast(NamedTuple):
    """mean: of the paired differences. low, high: its 95% interval. p: two-sided, of a mean of 0."""

    mean: float
    low: float
    high: float
    p: float


def bootstrap_interval(values: Sequence[float] | np.ndarray) -> tuple[float, float]:
    """The 95% percentile bootstrap interval of the mean. Source: Efron, 1979."""
    found = stats.bootstrap(
        (np.asarray(values),), np.mean, n_resamples=RESAMPLES, method="percentile", rng=SEED
    ).confidence_interval
    return float(found.low), float(found.high)


def paired_contrast(ours: Sequence[float], theirs: Sequence[float]) -> Contrast:
    """`ours` minus `theirs`, seed by seed. The test is exact up to 13 seeds. Raises ValueError for
    numbers that are not paired, or fewer than two."""
    if len(ours) != len(theirs) or len(ours) < 2:
        raise ValueError(f"must be two or more pairs: {len(ours)} and {len(theirs)}")
    differences = np.subtract(ours, theirs)
    found = stats.permutation_test(
        (differences,), np.mean, permutation_type="samples", n_resamples=RESAMPLES, rng=SEED
    )
    interval = bootstrap_interval(differences)
    return Contrast(float(differences.mean()), *interval, float(found.pvalue))


def holm(values: Sequence[float]) -> list[float]:
    """p-values as Holm's correction adjusts them, in the same order: the smallest times their number,
    the next times one less, none below one before it. Source: Holm, 1979. Example: 0.01, 0.04, 0.03
    become 0.03, 0.06, 0.06."""
    order = sorted(range(len(values)), key=values.__getitem__)
    adjusted, before = [0.0] * len(values), 0.0
    for rank, index in enumerate(order):
        before = min(1.0, max(before, (len(values) - rank) * values[index]))
        adjusted[index] = before
    return adjusted
