"""Curves from `metrics.jsonl`: proposer and solver for each task, and accuracy.

As a command it draws one or several runs into a folder, several as mean, band and thin lines:

    python utils/plots.py RUN_DIR [RUN_DIR ...] --output diagrams
"""

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path
from statistics import fmean

if __name__ == "__main__":
    sys.path[0] = str(Path(__file__).resolve().parents[1])

import matplotlib

matplotlib.use("Agg")
import matplotlib.pyplot as plt
import numpy as np

from custom_types import TASKS, Role
from prime_inversion import all_problems, guess_rate
from utils.run_directory import RunDirectoryError, read_config, read_metrics

COLOURS = ("#0072b2", "#d55e00", "#009e73")  # Okabe-Ito: told apart by colour-blind readers
BAND_ALPHA = 0.2


def _series(rows: Sequence[dict], key: str) -> tuple[np.ndarray, np.ndarray]:
    """Steps and values of the rows that have `key`; null is NaN."""
    own = [(row["step"], row[key]) for row in rows if key in row]
    steps, values = zip(*own, strict=True) if own else ((), ())
    return np.array(steps), np.array([np.nan if v is None else v for v in values], dtype=float)


def _draw(axes, runs: Sequence[Sequence[dict]], key: str, colour: str, label: str) -> None:
    """One run as a line; several as their mean with the range between them and thin lines."""
    series = [_series(rows, key) for rows in runs]
    steps = min((steps for steps, _ in series), key=len)
    if not len(steps):
        return
    values = np.stack([values[: len(steps)] for _, values in series])
    if np.isnan(values).all():
        return
    if len(runs) > 1:
        for row in values:
            axes.plot(steps, row, color=colour, linewidth=0.6, alpha=0.5)
        axes.fill_between(
            steps,
            np.nanmin(values, 0),
            np.nanmax(values, 0),
            color=colour,
            alpha=BAND_ALPHA,
            linewidth=0,
        )
    marker = "o" if len(steps) < 60 else None
    axes.plot(
        steps,
        np.nanmean(values, 0),
        color=colour,
        linewidth=2,
        label=label,
        marker=marker,
        markersize=3,
    )


def _figure(title: str, ylabel: str):
    figure, axes = plt.subplots(figsize=(6, 4), dpi=150, layout="constrained")
    axes.set(title=title, xlabel="self-play step", ylabel=ylabel)
    axes.grid(alpha=0.3)
    return figure, axes


def save_plots(run_dirs: Sequence[str | Path], folder: str | Path) -> list[Path]:
    """Draw every panel into `folder`; the files written. Raises RunDirectoryError."""
    runs = [read_metrics(run_dir) for run_dir in run_dirs]
    Path(folder).mkdir(parents=True, exist_ok=True)
    written = []

    def save(figure, axes, name, legend="best"):
        if axes.get_legend_handles_labels()[0]:
            axes.legend(loc=legend, framealpha=0.8)
        path = Path(folder) / name
        figure.savefig(path)
        plt.close(figure)
        written.append(path)

    panels = {
        Role.PROPOSER: (("reward", "mean reward"), ("valid_frac", "valid proposals (share)")),
        Role.SOLVER: (
            ("reward", "mean reward"),
            ("solve_rate", "solve rate of this step's proposals"),
        ),
    }
    for role, ((_, reward_label), (other, other_label)) in panels.items():
        for task in TASKS:
            figure, axes = _figure(f"{role.capitalize()}, {task}", "reward, share")
            _draw(axes, runs, f"reward/{role}_{task}", COLOURS[0], reward_label)
            _draw(axes, runs, f"{other}/{task}", COLOURS[2], other_label)
            axes.set_ylim(-1.05, 1.05)
            save(figure, axes, f"{role}_{task}.png")

    figure, axes = _figure("Solver accuracy, greedy", "accuracy")
    axes.axhline(1, color="#888888", linewidth=1, linestyle="--")
    chance = fmean(chance_level(run_dir) for run_dir in run_dirs)
    axes.axhline(chance, color="#888888", linewidth=1, linestyle=":", label="guessing, mean")
    for task, colour in zip(TASKS, COLOURS, strict=True):
        _draw(axes, runs, f"eval/accuracy_{task}", colour, str(task))
    _draw(axes, runs, "eval/accuracy", "#555555", "mean of the tasks")
    axes.set_ylim(-0.02, 1.02)
    save(figure, axes, "accuracy.png", legend="center right")
    return written


def chance_level(run_dir: str | Path) -> float:
    """Accuracy of uniform legal guessing over a run's whole problem space, mean of the tasks."""
    args = read_config(run_dir)["args"]
    span = args["min_prime"], args["max_prime"]
    return fmean(
        fmean(guess_rate(problem, *span) for problem in all_problems(task, *span)) for task in TASKS
    )


def main(argv: Sequence[str]) -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("run_dirs", nargs="+", metavar="RUN_DIR")
    parser.add_argument("--output", default="diagrams", help="folder for the PNG files [diagrams]")
    given = parser.parse_args(argv)
    try:
        for path in save_plots(given.run_dirs, given.output):
            print(path)
    except RunDirectoryError as error:
        print(error, file=sys.stderr)
        return 2
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
