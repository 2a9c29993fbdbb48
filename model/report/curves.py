"""Curves of several runs, brought together by step.

One run may have been evaluated more often than another, or be longer. What is said of all of them at a
step, a mean or a range, is said where each has that step: a mean over now these runs and now those
jumps without any run having moved. Of runs with the values 1, 2, 3 at the steps 0, 10, 20 and 5, 7 at
the steps 0, 20, those are 3 at step 0 and 5 at step 20.
"""

from collections.abc import Sequence
from functools import reduce

import numpy as np
from numpy.typing import ArrayLike


def on_common_steps(curves: Sequence[tuple[ArrayLike, ArrayLike]]) -> tuple[np.ndarray, np.ndarray]:
    """The steps that all curves have, ascending, (steps,), and their values there, (curves, steps).

    curves: at least one; of each its steps, none twice, and as many values. NaN is a value, so that a
    mean over runs of which one has nothing to measure is NaN too.
    """
    own = [(np.asarray(steps), np.asarray(values, dtype=float)) for steps, values in curves]
    common = reduce(np.intersect1d, (steps for steps, _ in own), np.unique(own[0][0]))
    aligned = []
    for steps, values in own:
        order = np.argsort(steps)
        aligned.append(values[order][np.searchsorted(steps[order], common)])
    return common, np.stack(aligned)
