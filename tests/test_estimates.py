"""Intervals and pass@k. Oracles: scipy's Wilson interval, and every way to draw k of n answers."""

from itertools import combinations

import pytest
from scipy.stats import binomtest

from compute.estimates import pass_at_k, wilson_interval


@pytest.mark.parametrize("n", [1, 3, 28, 92, 512])
def test_the_interval_is_scipys(n):
    for right in range(n + 1):
        theirs = binomtest(right, n).proportion_ci(method="wilson")
        assert wilson_interval(right / n, n) == pytest.approx((theirs.low, theirs.high), abs=1e-12)


def test_no_trials_no_interval():
    for share, n in ((0.5, 0), (1.1, 5), (-0.1, 5), (float("nan"), 5)):
        with pytest.raises(ValueError):
            wilson_interval(share, n)


def test_pass_at_k_is_the_share_of_all_draws_that_hold_a_right_answer():
    for n in range(1, 7):
        for correct in range(n + 1):
            answers = [True] * correct + [False] * (n - correct)
            for k in range(1, n + 1):
                draws = [any(draw) for draw in combinations(answers, k)]
                assert pass_at_k(n, correct, k) == pytest.approx(sum(draws) / len(draws))


def test_pass_at_k_of_impossible_counts_is_refused():
    for n, correct, k in ((3, 4, 1), (3, -1, 1), (3, 1, 4), (3, 1, 0)):
        with pytest.raises(ValueError):
            pass_at_k(n, correct, k)
