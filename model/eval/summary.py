"""A table of finished runs, from their metrics: what they reached and what it took.

    python model/eval/summary.py RUN_DIR [RUN_DIR ...]

Accuracy is greedy over the evaluation problems: before training, and the mean of the last three
evaluations. Valid is the share of valid proposals over the last 20 steps. Markdown on stdout.
"""

import sys
from collections.abc import Sequence
from pathlib import Path
from statistics import fmean, median

if __name__ == "__main__":
    sys.path[0] = str(Path(__file__).resolve().parents[2])  # runs from any folder

from constants import LAST_EVALUATIONS
from custom_types import TASKS
from utils.run_directory import RunDirectoryError, read_config, read_metrics

LAST_STEPS = 20


def summary_row(run_dir: str | Path) -> dict[str, str]:
    """One line of the table. Raises RunDirectoryError for a folder that holds no run."""
    args, rows = read_config(run_dir)["args"], read_metrics(run_dir)
    evaluated = [row for row in rows if "eval/accuracy" in row]
    steps = rows[1:]

    def each_task(key: str, chosen: Sequence[dict]) -> str:
        values = [[row[f"{key}{task}"] for row in chosen] for task in TASKS]
        known = [[value for value in own if value is not None] for own in values]
        return " ".join(f"{fmean(own):.2f}" if own else "-" for own in known)

    return {
        "seed": str(args["seed"]),
        "steps": str(rows[-1]["step"]),
        "accuracy before": each_task("eval/accuracy_", evaluated[:1]),
        "accuracy after": each_task("eval/accuracy_", evaluated[-LAST_EVALUATIONS:]),
        "valid at step 1": each_task("valid_frac/", steps[:1]),
        "valid at the end": each_task("valid_frac/", steps[-LAST_STEPS:]),
        "steps/s": f"{1 / median(row['step_time'] for row in steps):.1f}" if steps else "-",
        "completions/s": f"{median(row['perf/completions_per_second'] for row in steps):.0f}"
        if steps
        else "-",
    }


def main(argv: Sequence[str]) -> int:
    """Exit status: 0, or 2 after one sentence on stderr about what cannot be read."""
    if not argv or argv[0] in ("-h", "--help"):
        print(__doc__)
        return 0 if argv else 2
    try:
        rows = [summary_row(run_dir) for run_dir in argv]
    except RunDirectoryError as error:
        print(error, file=sys.stderr)
        return 2
    print("| " + " | ".join(rows[0]) + " |")
    print("|" + "---|" * len(rows[0]))
    for row in rows:
        print("| " + " | ".join(row.values()) + " |")
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
