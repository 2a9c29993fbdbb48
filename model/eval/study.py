"""Controls: what self-play earns, against the same trainer with one thing changed.

    python model/eval/study.py --output runs/study --seeds 3
    python model/eval/study.py --output runs/study --only self uniform

Runs `model/train.py` for every condition and seed, as many at a time as there are cores, each on one
thread. A run that is finished is not run again, so the same command goes on where it was stopped.
Writes into the output folder `study.md`, a table with means and 95% intervals over seeds (Student's
t), and `study.png`, accuracy against the solver completions spent.
"""

import argparse
import os
import shutil
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
from model.args import ArgumentError, parse_args
from utils.run_directory import RunDirectoryError, latest_checkpoint, read_config, read_metrics

CONDITIONS = {
    "self": (),
    "uniform": ("--proposer", "uniform"),
    "frozen": ("--proposer", "frozen"),
    "constant": ("--reward", "constant"),
    "format": ("--reward", "format"),
    "global": ("--advantage", "global"),
    "grpo": ("--advantage", "grpo"),
    "extreme": ("--extreme-reward", "-0.5"),
    "invalid": ("--invalid-reward", "-1"),
    "refill_uniform": ("--refill", "uniform"),
    "entropy_0.001": ("--entropy-coef", "0.001"),
}
GOAL = 0.9


def is_finished(run_dir: Path, total_steps: int) -> bool:
    """Whether a run wrote its last step and its checkpoint."""
    try:
        return (
            read_metrics(run_dir)[-1]["step"] == total_steps and latest_checkpoint(run_dir).is_dir()
        )
    except (RunDirectoryError, IndexError, ValueError):
        return False


def conflict(run_dir: Path, flags: Sequence[str], seed: int, total_steps: int) -> str | None:
    """Why a folder cannot be this run's: it holds something else. None if it can."""
    if not run_dir.exists() or not any(run_dir.iterdir()):
        return None
    wanted = parse_args([*flags, "--seed", str(seed), "--total-steps", str(total_steps)])
    ignored = {"run_dir", "quiet"}
    try:
        found = read_config(run_dir)["args"]
    except (RunDirectoryError, ValueError, KeyError):
        return f"--output: {run_dir} must be empty or a run of this study, and is neither"
    for name, value in wanted.as_dict().items():
        if name not in ignored and found.get(name) != value:
            flag = "--" + name.replace("_", "-")
            return f"--output: {run_dir} holds a run with {flag} {found.get(name)}, not {value}"
    return None


def run(run_dir: Path, flags: Sequence[str], seed: int, total_steps: int) -> str | None:
    """Train in a process of its own unless that is done; an error message or None."""
    if is_finished(run_dir, total_steps):
        return None
    if run_dir.exists():
        shutil.rmtree(run_dir)  # the same run, unfinished
    command = [sys.executable, str(ROOT / "model" / "train.py"), *flags, "--quiet"]
    command += ["--seed", str(seed), "--total-steps", str(total_steps), "--run-dir", str(run_dir)]
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    result = subprocess.run(command, env=environment, capture_output=True, text=True)
    print(
        f"{run_dir.parent.name} seed {seed}: {'done' if result.returncode == 0 else 'failed'}",
        flush=True,
    )
    return result.stderr.strip() if result.returncode else None


def curve(run_dir: Path) -> tuple[np.ndarray, np.ndarray]:
    """Solver completions spent, B n a task and step where attempts are trained on (which a study
    assumes), and mean greedy accuracy, at each evaluation."""
    args = read_config(run_dir)["args"]
    per_step = len(TASKS) * args["batch_size"] * args["n_attempts"]
    points = [
        (r["step"], r["eval/accuracy"]) for r in read_metrics(run_dir) if "eval/accuracy" in r
    ]
    steps, accuracy = np.array(points).T
    return steps * per_step, accuracy


def interval(values: Sequence[float]) -> str:
    """Mean and the half-width of its 95% interval over seeds; the mean alone for one seed."""
    mean = fmean(values)
    if len(values) < 2:
        return f"{mean:.3g}"
    half = stats.sem(values) * stats.t.ppf(0.975, len(values) - 1)
    return f"{mean:.3g} ± {half:.2g}"


def table(results: Mapping[str, Sequence[Path]]) -> str:
    """Markdown: final accuracy, completions to the goal, valid proposals of the last 20 steps."""
    lines = [
        f"| condition | seeds | final accuracy | solver completions to {GOAL} | reached by | valid proposals |",
        "|---|---|---|---|---|---|",
    ]
    for name, run_dirs in results.items():
        curves = [curve(run_dir) for run_dir in run_dirs]
        final = [accuracy[-LAST_EVALUATIONS:].mean() for _, accuracy in curves]
        reached = [
            spent[accuracy >= GOAL][0] for spent, accuracy in curves if (accuracy >= GOAL).any()
        ]
        valid = [
            row[f"valid_frac/{task}"]
            for run_dir in run_dirs
            for row in read_metrics(run_dir)[-20:]
            for task in TASKS
            if row.get(f"valid_frac/{task}") is not None
        ]
        cells = [
            name,
            str(len(run_dirs)),
            interval(final),
            interval(reached) if reached else "-",
            f"{len(reached)} of {len(run_dirs)}",
            f"{fmean(valid):.2f}" if valid else "-",
        ]
        lines.append("| " + " | ".join(cells) + " |")
    return "\n".join(lines) + "\n"


def figure(results: Mapping[str, Sequence[Path]], path: Path) -> None:
    """Accuracy against solver completions: the mean over seeds of each condition, and each seed."""
    image, axes = plt.subplots(figsize=(8, 5), dpi=150, layout="constrained")
    colours = plt.get_cmap("tab20").colors
    for (name, run_dirs), colour in zip(results.items(), colours, strict=False):
        curves = [curve(run_dir) for run_dir in run_dirs]
        accuracy = np.stack([accuracy for _, accuracy in curves])
        for row in accuracy:
            axes.plot(curves[0][0], row, color=colour, linewidth=0.5, alpha=0.5)
        axes.plot(curves[0][0], accuracy.mean(0), color=colour, linewidth=2, label=name)
    axes.set(
        xlabel="solver completions", ylabel="greedy accuracy, mean of the tasks", ylim=(0, 1.02)
    )
    axes.axhline(GOAL, color="#888888", linewidth=1, linestyle=":")
    axes.grid(alpha=0.3)
    axes.legend(ncols=2)
    image.savefig(path)
    plt.close(image)


def main(argv: Sequence[str]) -> int:
    """Exit status: 0, 1 where a run failed, 2 for a wrong flag."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0], allow_abbrev=False)
    parser.add_argument(
        "--output", type=Path, default=RUNS_DIR / "study", help="folder of the study"
    )
    parser.add_argument("--seeds", type=int, default=3, choices=range(1, 101), metavar="N")
    parser.add_argument(
        "--total-steps", type=int, default=200, choices=range(1, 100_001), metavar="N"
    )
    parser.add_argument("--only", nargs="+", choices=CONDITIONS, default=list(CONDITIONS))
    parser.add_argument(
        "--flags", default="", help="further flags of train.py for every run, quoted"
    )
    given = parser.parse_args(argv)

    results = {
        name: [given.output / name / f"seed{seed}" for seed in range(given.seeds)]
        for name in given.only
    }
    runs = [
        (path, (*CONDITIONS[name], *given.flags.split()), seed, given.total_steps)
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
    figure(results, given.output / "study.png")
    print(text)
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
