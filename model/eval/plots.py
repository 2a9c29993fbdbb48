"""The pictures of a run, or of several compared: proposer and solver of each task, accuracy, curriculum.

    python model/eval/plots.py RUN_DIR
    python model/eval/plots.py RUN_DIR [RUN_DIR ...] --output diagrams

One run's are drawn into its own `plots/` unless another folder is named; of several runs, lines are
means and bands reach from the lowest run to the highest. Pictures that this program made are replaced
there; any other file of their names is not.
"""

import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

if __name__ == "__main__":
    sys.path[0] = str(Path(__file__).resolve().parents[2])  # runs from any folder

from model.flags import ArgumentError, Flags, flag, parse, positional
from model.report.pictures import NAMES, save_plots
from model.run.finished import FinishedRun
from model.run.outputs import PICTURE, output_folder
from model.run.rows import RunDirectoryError


@dataclass(frozen=True)
class PlotArgs(Flags):
    """The command line."""

    run_dirs: tuple[str, ...] = positional("RUN_DIR", "finished runs")
    output: str | None = flag(None, "folder for the PNG files [plots/ of one run]")


def main(argv: Sequence[str]) -> int:
    """Exit status: 0, or 2 after one sentence on stderr about what cannot be read or written."""
    try:
        given = parse(PlotArgs, argv, about=__doc__.splitlines()[0])
        if given.output is None and len(given.run_dirs) > 1:
            raise ArgumentError("--output: must name a folder for the pictures of several runs")
        for run_dir in given.run_dirs:
            _ = FinishedRun(run_dir).args  # before a folder is made for its pictures
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
