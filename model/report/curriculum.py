"""What a run's proposer proposed, when, and how hard it was: one figure from the run's logs.

Above, over steps, the mean prime of the valid proposals and how often the solver solves them, beside
how often it solves problems drawn uniformly. Below, for each task and phase of the run, how often
each problem was proposed, by p and the number that is given with it: y in abduction, whose answer is x,
and x elsewhere. A white cell is a problem that was not proposed.
"""

from collections.abc import Mapping, Sequence

import matplotlib

matplotlib.use("Agg")
import matplotlib.pyplot as plt
import numpy as np
from matplotlib.colors import LogNorm

from custom_types import TASKS
from prime_inversion import given_residue, primes_between

COLOURS = ("#0072b2", "#d55e00", "#009e73")  # Okabe-Ito: told apart by colour-blind readers
PHASE_ENDS = (0.1, 0.25, 0.5, 1.0)  # of the run
SHARES = (1e-4, 0.3)  # of a phase's proposals, from the dark end of the scale to the bright one
SMOOTHED = 5  # steps


def phases(steps: int) -> list[tuple[int, int]]:
    """First and last step of each phase that a run of so many steps has."""
    ends = sorted({max(1, round(share * steps)) for share in PHASE_ENDS}) if steps else []
    return list(zip([1, *(end + 1 for end in ends)], ends, strict=False))


def given_number(task: str, x: int, y: int) -> int:
    """The number of a problem that is shown and tells it from the others with its p."""
    return given_residue(task, x, y)


def proposal_counts(
    steps: Sequence[Mapping], task: str, primes: Sequence[int], first: int, last: int
) -> np.ndarray:
    """How often each problem was proposed in steps first..last: (primes, largest p) with entry
    [i, n] for the problem with p = primes[i] and the given number n."""
    counts = np.zeros((len(primes), max(primes)))
    for row in steps:
        if first <= row["step"] <= last:
            for x, y, p, proposed, _ in row[task]:
                counts[primes.index(p), given_number(task, x, y)] += proposed
    return counts


def curriculum_figure(rows: Sequence[Mapping], steps: Sequence[Mapping], args: Mapping):
    """The figure of one run. rows: of metrics.jsonl; steps: of problems.jsonl; args: its config."""
    primes = primes_between(args["min_prime"], args["max_prime"])
    figure = plt.figure(figsize=(10, 10), dpi=110, layout="constrained", facecolor="white")
    upper, lower = figure.subfigures(2, 1, height_ratios=(1, 1.9))
    _draw_curves(upper.subplots(1, 2), [row for row in rows if row["step"]], primes)

    spans = phases(max(row["step"] for row in steps))
    grid = lower.subplots(len(TASKS), len(spans), sharex=True, sharey=True, squeeze=False)
    tables = [[proposal_counts(steps, task, primes, *span) for span in spans] for task in TASKS]
    shares = [[table / max(table.sum(), 1) for table in own] for own in tables]
    norm = LogNorm(*SHARES)
    for task, own, line in zip(TASKS, shares, grid, strict=True):
        for (first, last), share, axes in zip(spans, own, line, strict=True):
            image = axes.imshow(
                np.ma.masked_equal(share, 0),
                origin="lower",
                aspect="auto",
                norm=norm,
                cmap="viridis",
            )
            axes.set_yticks(range(len(primes)), primes, fontsize=8)
            axes.set_title(f"{task}, steps {first} to {last}", fontsize=9)
    for axes in grid[-1]:
        axes.set_xlabel("given: x, or y in abduction")
    for axes in grid[:, 0]:
        axes.set_ylabel("p")
    lower.colorbar(image, ax=grid, label="share of the phase's valid proposals", shrink=0.8)
    return figure


def _draw_curves(pair, rows: Sequence[Mapping], primes: Sequence[int]) -> None:
    prime_axes, rate_axes = pair
    steps = [row["step"] for row in rows]
    for task, colour in zip(TASKS, COLOURS, strict=True):
        for axes, key in ((prime_axes, "proposed_prime_mean"), (rate_axes, "solve_rate")):
            values = [row[f"{key}/{task}"] for row in rows]
            known = np.array([np.nan if value is None else value for value in values])
            axes.plot(steps, known, color=colour, linewidth=0.5, alpha=0.5)
            axes.plot(steps, _smoothed(known), color=colour, linewidth=1.8, label=str(task))
    uniform = sum(p * (p - 1) for p in primes) / sum(p - 1 for p in primes)
    prime_axes.axhline(uniform, color="#777777", linestyle=":", label="uniform drawing")
    prime_axes.set(title="mean p of the valid proposals", xlabel="self-play step")
    rate_axes.set(title="solve rate of the proposals", xlabel="self-play step", ylim=(-0.02, 1.02))
    for axes in pair:
        axes.grid(alpha=0.3)
        axes.legend(fontsize=8)


def _smoothed(values: np.ndarray) -> np.ndarray:
    """The mean of the last few known values at each step."""
    windows = [values[max(0, end - SMOOTHED) : end] for end in range(1, len(values) + 1)]
    return np.array([np.nan if np.isnan(w).all() else np.nanmean(w) for w in windows])
