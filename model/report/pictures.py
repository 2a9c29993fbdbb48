"""Curves from `metrics.jsonl`: proposer and solver for each task, and accuracy; and the curriculum.

As a command it draws one run again into its own `plots/`, or one or several into another folder,
several as mean, band and thin lines:

    python model/report/pictures.py RUN_DIR
    python model/report/pictures.py RUN_DIR [RUN_DIR ...] --output diagrams

Pictures of its own are replaced there; any other file of their names is not.
"""

import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from statistics import fmean

if __name__ == "__main__":
    sys.path[0] = str(Path(__file__).resolve().parents[2])

import matplotlib

matplotlib.use("Agg")
import matplotlib.pyplot as plt
import numpy as np

from custom_types import CELLS, TASKS
from model.flags import ArgumentError, Flags, flag, parse, positional
from model.report.curriculum import COLOURS, curriculum_figure
from model.report.curves import on_common_steps
from model.run.directory import RunDirectoryError, read_args, read_metrics, read_problems
from model.run.outputs import PICTURE, output_folder
from prime_inversion import all_problems, guess_rate

GREY = "#777777"
BAND_ALPHA = 0.2
NAMES = [*(f"{role}_{task}.png" for role, task in CELLS), "accuracy.png", "curriculum.png"]
MARKED_POINTS = 60  # a series with fewer points shows them


@dataclass(frozen=True)
class PictureArgs(Flags):
    """The command line."""

    run_dirs: tuple[str, ...] = positional("RUN_DIR", "finished runs")
    output: str | None = flag(None, "folder for the PNG files [plots/ of one run]")


def _series(rows: Sequence[dict], key: str) -> tuple[np.ndarray, np.ndarray]:
    """Steps and values of the rows that have `key`; null is NaN."""
    own = [(row["step"], row[key]) for row in rows if key in row]
    steps, values = zip(*own, strict=True) if own else ((), ())
    return np.array(steps), np.array([np.nan if v is None else v for v in values], dtype=float)


def draw(axes, runs: Sequence[Sequence[dict]], key: str, colour: str, label: str, **style) -> None:
    """One run as a line; several as thin lines, each over its own steps, and where all have a value
    their mean with the range between them."""
    series = [own for own in (_series(rows, key) for rows in runs) if not np.isnan(own[1]).all()]
    if not series:
        return
    if len(runs) > 1:
        for own in series:
            axes.plot(*own, color=colour, linewidth=0.5, alpha=0.4)
    if len(series) < len(runs):  # there is no step that all have
        series = [(np.array([]), np.array([]))]
    steps, values = on_common_steps(series)
    if len(runs) > 1:
        axes.fill_between(
            steps, values.min(0), values.max(0), color=colour, alpha=BAND_ALPHA, linewidth=0
        )
    marker = "o" if len(steps) < MARKED_POINTS else None
    axes.plot(
        steps, values.mean(0), color=colour, linewidth=2, label=label, marker=marker, markersize=3,
        **style,
    )  # fmt: skip


def _level(axes, value: float, text: str, *, above: bool = True) -> None:
    """A horizontal line that says what it is."""
    axes.axhline(value, color=GREY, linewidth=1, linestyle=":")
    axes.annotate(
        text, (0.99, value), xycoords=("axes fraction", "data"), xytext=(0, 2 if above else -3),
        textcoords="offset points", ha="right", va="bottom" if above else "top", fontsize=9,
        color="#555555",
    )  # fmt: skip


def _figure(title: str, ylabel: str):
    figure, axes = plt.subplots(figsize=(6, 4), dpi=150, layout="constrained", facecolor="white")
    axes.set(title=title, xlabel="self-play step", ylabel=ylabel)
    axes.grid(alpha=0.3)
    return figure, axes


def _legend(axes, where: str) -> None:
    """Where there is something to name."""
    if axes.get_legend_handles_labels()[0]:
        axes.legend(loc=where, framealpha=0.8)


def save_plots(run_dirs: Sequence[str | Path], folder: str | Path) -> list[Path]:
    """Draw every panel into `folder`; the files written. Raises RunDirectoryError."""
    runs = [read_metrics(run_dir) for run_dir in run_dirs]
    args = read_args(run_dirs[0])
    Path(folder).mkdir(parents=True, exist_ok=True)
    written = []

    def save(figure, name):
        path = Path(folder) / name
        save_picture(figure, path)
        written.append(path)

    for task in TASKS:
        figure, axes = _figure(f"Proposer, {task}", "reward, share")
        _level(axes, 1 - 1 / args["n_attempts"], "most that a proposal can earn", above=False)
        _level(axes, 0, "always or never solved", above=False)
        draw(axes, runs, f"valid_frac/{task}", COLOURS[2], "valid proposals, share")
        draw(axes, runs, f"reward/proposer_{task}", COLOURS[0], "mean reward")
        uniform = f"eval/uniform_reward_{task}"
        draw(axes, runs, uniform, COLOURS[1], "uniform drawing would earn", linestyle="--")
        axes.set_ylim(-1.05, 1.05)
        _legend(axes, "lower right")
        save(figure, f"proposer_{task}.png")

        figure, axes = _figure(f"Solver, {task}", "reward, share")
        _level(axes, 1, "every answer right")
        draw(axes, runs, f"reward/solver_{task}", COLOURS[0], "mean reward of answers")
        rate = f"solve_rate/{task}"
        draw(axes, runs, rate, COLOURS[2], "solve rate of this step's proposals")
        axes.set_ylim(-1.05, 1.12)
        _legend(axes, "lower right")
        save(figure, f"solver_{task}.png")

    figure, axes = _figure("Solver accuracy, greedy", "accuracy")
    _level(axes, 1, "perfect")
    _level(axes, fmean(chance_level(run_dir) for run_dir in run_dirs), "guessing")
    for task, colour, style in zip(
        TASKS, COLOURS, ("-", "--", "-"), strict=True
    ):  # two may coincide
        draw(axes, runs, f"eval/accuracy_{task}", colour, str(task), linestyle=style)
    draw(axes, runs, "eval/accuracy", "#444444", "mean of the tasks")
    axes.set_ylim(-0.02, 1.08)
    _legend(axes, "best")
    save(figure, "accuracy.png")

    steps = read_problems(run_dirs[0])
    if steps:
        save(curriculum_figure(runs[0], steps, args), "curriculum.png")
    return written


def save_bars(rows: Sequence[Mapping], path: str | Path) -> None:
    """Accuracy with its interval by band, a panel for each task and a colour for each policy, of rows
    with the keys policy, task, band, accuracy, low, high, n."""
    policies = list(dict.fromkeys(row["policy"] for row in rows))
    figure, panels = plt.subplots(
        len(TASKS), 1, figsize=(9, 9), dpi=120, layout="constrained", sharey=True
    )
    width = 0.84 / len(policies)
    for task, axes in zip(TASKS, panels, strict=True):
        own = [row for row in rows if row["task"] == task and row["n"]]
        names = list(dict.fromkeys(row["band"] for row in own))
        for index, policy in enumerate(policies):
            bars = [row for row in own if row["policy"] == policy]
            at = [names.index(row["band"]) - 0.42 + width * (index + 0.5) for row in bars]
            middle = np.array([row["accuracy"] for row in bars])
            ends = np.array([[row["low"], row["high"]] for row in bars]).T
            axes.bar(at, middle, width, color=f"C{index}", label=policy, zorder=2)
            axes.errorbar(
                at, middle, abs(ends - middle), fmt="none", ecolor="#333333", capsize=2, zorder=3
            )
        counts = {row["band"]: row["n"] for row in own}
        axes.set_xticks(range(len(names)), [f"{name}\nn = {counts[name]}" for name in names])
        axes.set(title=str(task), ylabel="accuracy", ylim=(0, 1.05))
        axes.grid(axis="y", alpha=0.3)
    panels[-1].set_xlabel("primes")
    figure.legend(*panels[0].get_legend_handles_labels(), loc="outside upper center", ncols=3)
    save_picture(figure, path)


def save_picture(figure, path: str | Path) -> None:
    """A PNG file that says whose it is, so that the next one may replace it."""
    figure.savefig(path, metadata={"Software": PICTURE})
    plt.close(figure)


def chance_level(run_dir: str | Path) -> float:
    """Accuracy of uniform legal guessing over a run's whole problem space, mean of the tasks."""
    args = read_args(run_dir)
    span = args["min_prime"], args["max_prime"]
    return fmean(
        fmean(guess_rate(problem, *span) for problem in all_problems(task, *span)) for task in TASKS
    )


def main(argv: Sequence[str]) -> int:
    """Exit status: 0, or 2 after one sentence on stderr about what cannot be read or written."""
    try:
        given = parse(PictureArgs, argv, about=__doc__)
        if given.output is None and len(given.run_dirs) > 1:
            raise ArgumentError("--output: must name a folder for the pictures of several runs")
        for run_dir in given.run_dirs:
            read_args(run_dir)  # before a folder is made for its pictures
        if given.output is None:
            folder = Path(given.run_dirs[0]) / "plots"
        else:
            folder = output_folder(given.output, NAMES, PICTURE)
        for path in save_plots(given.run_dirs, folder):
            print(path)
    except (ArgumentError, RunDirectoryError, OSError) as error:
        print(error, file=sys.stderr)
        return 2
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
