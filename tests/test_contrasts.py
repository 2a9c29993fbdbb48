"""Paired contrasts. Oracles: enumeration of signs, arithmetic in the comments, a known distribution."""

from itertools import product

import numpy as np
import pytest

from model.eval.contrasts import bootstrap_interval, holm, paired_contrast


def test_the_sign_flip_test_is_the_share_of_signs():
    """By enumeration of all 2^6 signs: how many give a mean at least as far from 0."""
    ours, theirs = [0.5, 0.7, 0.6, 0.9, 0.4, 0.8], [0.4, 0.75, 0.3, 0.5, 0.45, 0.55]
    differences = np.subtract(ours, theirs)
    means = [abs(np.dot(signs, differences)) for signs in product((1, -1), repeat=6)]
    share = np.mean([mean >= abs(differences.sum()) - 1e-12 for mean in means])
    found = paired_contrast(ours, theirs)
    assert found.p == pytest.approx(share) and found.mean == pytest.approx(differences.mean())
    assert found.low < found.mean < found.high


def test_pairs_matter():
    """Negative control: the same numbers in another order are another contrast."""
    ours, theirs = [0.1, 0.5, 0.9, 0.3], [0.0, 0.4, 0.8, 0.2]
    assert paired_contrast(ours, theirs).high == pytest.approx(0.1)
    assert paired_contrast(ours, theirs[::-1]).high > 0.2


def test_intervals_cover_the_mean_as_often_as_they_say():
    """Of 300 samples of 30 normal numbers, a 95% interval covers the mean about 285 times; by 4
    standard deviations (3.8 each) no fewer than 269, given that a percentile interval is a little
    short."""
    rng = np.random.default_rng(0)
    covered = 0
    for _ in range(300):
        low, high = bootstrap_interval(rng.normal(0.3, 1, 30))
        covered += low <= 0.3 <= high
    assert 265 <= covered < 300


def test_holm_by_hand():
    # Sorted 0.01, 0.03, 0.04: times 3, 2, 1 is 0.03, 0.06, 0.04, and none is below one before it.
    assert holm([0.01, 0.04, 0.03]) == pytest.approx([0.03, 0.06, 0.06])
    assert holm([0.5, 0.9]) == [1.0, 1.0] and holm([]) == []


def test_what_is_not_paired_is_refused():
    for pair in (([1.0], [2.0]), ([1.0, 2.0], [1.0])):
        with pytest.raises(ValueError, match="must be two or more pairs"):
            paired_contrast(*pair)
