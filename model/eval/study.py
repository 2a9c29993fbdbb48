"""Grids of runs: what self-play earns against the same trainer with one thing changed, and how cost
grows with the largest prime.

    python model/eval/study.py --output runs/study --seeds 3
    python model/eval/study.py --output runs/growth --grid growth
    python model/eval/study.py --output runs/study --only self uniform

Runs `model/train.py` for every condition and seed, as many at a time as there are cores, each on one
thread. A run that is finished is not run again, so the same command goes on where it was stopped.
Writes into the output folder `study.md`, a table with means and 95% intervals over seeds (Student's
t), and `study.png`, accuracy against the solver completions spent.
"""

import argparse
import os
import subprocess
import sys
from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from statistics import fmean

if __name__ == "__main__":
    sys.path[0] = str(Path(__file__).resolve().parents[2])  # runs from any folder

import matplotlib

matplotlib.use("Agg")
import matplotlib.pyplot as plt
import numpy as np
from scipy import stats

from constants import LAST_EVALUATIONS, ROOT, RUNS_DIR
from custom_types import TASKS
from model.args import ArgumentError, AZRArgs, flag_name, parse_args
from utils.run_directory import RunDirectoryError, latest_checkpoint, read_config, read_metrics
from utils.tables import markdown_table

# Panel of the figure -> condition -> flags. A condition in two panels is run once.
CONTROLS = {
    "who proposes": {
        "self": (),
        "uniform": ("--proposer", "uniform"),
        "frozen": ("--proposer", "frozen"),
        "self, uniform refill": ("--refill", "uniform"),
        "uniform, uniform refill": ("--proposer", "uniform", "--refill", "uniform"),
    },
    "what is paid": {
        "self": (),
        "constant reward": ("--reward", "constant"),
        "format reward": ("--reward", "format"),
        "extreme reward -0.5": ("--extreme-reward", "-0.5"),
        "invalid reward -1": ("--invalid-reward", "-1"),
    },
    "how it is learned": {
        "self": (),
        "global advantage": ("--advantage", "global"),
        "grpo advantage": ("--advantage", "grpo"),
        "proposer weight 1": ("--proposer-weight", "1"),
        "separate triples": ("--no-share-triples",),
        "entropy 0.001": ("--entropy-coef", "0.001"),
    },
}
GROWTH = {
    "largest prime": {
        "13": ("--max-prime", "13"),
        "23": ("--max-prime", "23"),
        "31": ("--max-prime", "31"),
        "61": ("--max-prime", "61", "--total-steps", "600", "--lr-hold", "500"),
    }
}
GRIDS = {"controls": CONTROLS, "growth": GROWTH}
GOAL = 0.9


def arguments(flags: Sequence[str], seed: int, further: Sequence[str]) -> list[str]:
    """The command line of a run; the condition's own flags come last and win."""
    return ["--seed", str(seed), *further, *flags]


def is_finished(run_dir: Path, wanted: AZRArgs) -> bool:
    """Whether a run wrote its last step and its checkpoint."""
    try:
        last = read_metrics(run_dir)[-1]["step"]
        return last == wanted.total_steps and latest_checkpoint(run_dir).is_dir()
    except (RunDirectoryError, IndexError, ValueError):
        return False


def conflict(run_dir: Path, argv: Sequence[str]) -> str | None:
    """Why a folder cannot be this run's: it holds something else. None if it can."""
    if not run_dir.exists() or not any(run_dir.iterdir()):
        return None
    ignored = {"run_dir", "quiet", "prompt_date"}
    try:
        found = read_config(run_dir)["args"]
    except (RunDirectoryError, ValueError, KeyError):
        return f"--output: {run_dir} must be empty or a run of this study, and is neither"
    for name, value in parse_args(argv).as_dict().items():
        if name not in ignored and found.get(name) != value:
            flag = flag_name(name)
            return f"--output: {run_dir} holds a run with {flag} {found.get(name)}, not {value}"
    return None


def run(run_dir: Path, argv: Sequence[str]) -> str | None:
    """Train in a process of its own unless that is done; an error message or None."""
    if is_finished(run_dir, parse_args(argv)):
        return None
    command = [sys.executable, str(ROOT / "model" / "train.py"), *argv, "--quiet", "--resume"]
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    result = subprocess.run(
        [*command, "--run-dir", str(run_dir)], env=environment, capture_output=True, text=True
    )
    said = "done" if result.returncode == 0 else "failed"
    print(f"{run_dir.parent.name}, {run_dir.name}: {said}", flush=True)
    return result.stderr.strip() if result.returncode else None


def curve(run_dir: Path) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Steps, solver completions spent (B n a task and step where attempts are trained on, which a
    study assumes) and mean greedy accuracy at each evaluation."""
    args = read_config(run_dir)["args"]
    per_step = len(TASKS) * args["batch_size"] * args["n_attempts"]
    points = [
        (r["step"], r["eval/accuracy"]) for r in read_metrics(run_dir) if "eval/accuracy" in r
    ]
    steps, accuracy = np.array(points).T
    return steps, steps * per_step, accuracy


def reached(run_dir: Path) -> tuple[float, float, float] | None:
    """Steps, solver completions and seconds of training to the goal; None where it was not met."""
    steps, spent, accuracy = curve(run_dir)
    if not (accuracy >= GOAL).any():
        return None
    first = int((accuracy >= GOAL).argmax())
    rows = read_metrics(run_dir)
    seconds = sum(row["step_time"] for row in rows if 0 < row["step"] <= steps[first])
    return steps[first], spent[first], seconds


def interval(values: Sequence[float]) -> str:
    """Mean and the half-width of its 95% interval over seeds; the mean alone for one seed."""
    if not values:
        return "-"
    mean = fmean(values)
    if len(values) < 2:
        return f"{mean:.3g}"
    half = stats.sem(values) * stats.t.ppf(0.975, len(values) - 1)
    return f"{mean:.3g} ± {half:.2g}"


def table(results: Mapping[str, Sequence[Path]]) -> str:
    """Markdown: final accuracy, what it took to the goal, valid proposals of the last 20 steps."""
    rows = []
    for name, run_dirs in results.items():
        final = [curve(run_dir)[2][-LAST_EVALUATIONS:].mean() for run_dir in run_dirs]
        took = [values for run_dir in run_dirs if (values := reached(run_dir)) is not None]
        valid = [
            row[f"valid_frac/{task}"]
            for run_dir in run_dirs
            for row in read_metrics(run_dir)[-20:]
            for task in TASKS
            if row.get(f"valid_frac/{task}") is not None
        ]
        steps, completions, seconds = (interval([values[k] for values in took]) for k in range(3))
        rows.append(
            {
                "condition": name,
                "seeds": str(len(run_dirs)),
                "final accuracy": interval(final),
                f"reached {GOAL}": f"{len(took)} of {len(run_dirs)}",
                "steps to it": steps,
                "solver completions to it": completions,
                "seconds to it": seconds,
                "valid proposals": f"{fmean(valid):.2f}" if valid else "-",
            }
        )
    return markdown_table(rows)


def figure(panels: Mapping[str, Mapping[str, Sequence[Path]]], path: Path) -> None:
    """Accuracy against solver completions: the mean over seeds of each condition, and each seed."""
    image, grid = plt.subplots(
        len(panels), 1, figsize=(7, 4.2 * len(panels)), dpi=130, layout="constrained",
        squeeze=False, facecolor="white",
    )  # fmt: skip
    for (title, conditions), axes in zip(panels.items(), grid[:, 0], strict=True):
        for (name, run_dirs), colour in zip(
            conditions.items(), plt.get_cmap("tab10").colors, strict=False
        ):
            curves = [curve(run_dir) for run_dir in run_dirs]
            spent, accuracy = curves[0][1], np.stack([accuracy for *_, accuracy in curves])
            for row in accuracy:
                axes.plot(spent, row, color=colour, linewidth=0.5, alpha=0.5)
            axes.plot(spent, accuracy.mean(0), color=colour, linewidth=2, label=name)
        axes.set(title=title, ylabel="greedy accuracy, mean of the tasks", ylim=(0, 1.02))
        axes.axhline(GOAL, color="#888888", linewidth=1, linestyle=":")
        axes.grid(alpha=0.3)
        axes.legend(loc="lower right")
    grid[-1, 0].set_xlabel("solver completions")
    image.savefig(path)
    plt.close(image)


def main(argv: Sequence[str]) -> int:
    """Exit status: 0, 1 where a run failed, 2 for a wrong flag."""
    names = sorted({name for grid in GRIDS.values() for panel in grid.values() for name in panel})
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0], allow_abbrev=False)
    parser.add_argument(
        "--output", type=Path, default=RUNS_DIR / "study", help="folder of the study"
    )
    parser.add_argument("--grid", choices=GRIDS, default="controls")
    parser.add_argument("--seeds", type=int, default=3, choices=range(1, 101), metavar="N")
    parser.add_argument("--only", nargs="+", choices=names, default=names, metavar="CONDITION")
    parser.add_argument(
        "--flags", default="", help="further flags of train.py for every run, quoted"
    )
    given = parser.parse_args(argv)

    def folders(name: str) -> list[Path]:
        folder = given.output / name.replace(", ", "_").replace(" ", "_")
        return [folder / f"seed{seed}" for seed in range(given.seeds)]

    panels = {
        title: {name: folders(name) for name in conditions if name in given.only}
        for title, conditions in GRIDS[given.grid].items()
    }
    panels = {title: conditions for title, conditions in panels.items() if conditions}
    flags = {name: own for panel in GRIDS[given.grid].values() for name, own in panel.items()}
    results = {name: paths for panel in panels.values() for name, paths in panel.items()}
    if not results:
        print("--only: must name a condition of the grid", file=sys.stderr)
        return 2
    runs = [
        (path, arguments(flags[name], seed, given.flags.split()))
        for name, paths in results.items()
        for seed, path in enumerate(paths)
    ]
    try:
        conflicts = [reason for one in runs if (reason := conflict(*one))]
    except ArgumentError as error:
        conflicts = [f"--flags: {error}"]
    if conflicts:
        print(conflicts[0], file=sys.stderr)
        return 2
    with ThreadPoolExecutor(os.cpu_count()) as pool:
        jobs = [pool.submit(run, *one) for one in runs]
        errors = [error for job in jobs if (error := job.result())]
    if errors:
        print("\n".join(errors), file=sys.stderr)
        return 1
    text = table(results)
    (given.output / "study.md").write_text(text, encoding="utf-8")
    figure(panels, given.output / "study.png")
    print(text)
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
