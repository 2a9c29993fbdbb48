"""The pictures of a run, or of several compared: proposer and solver of each task, accuracy, curriculum.

    python model/eval/plots.py RUN_DIR
    python model/eval/plots.py RUN_DIR [RUN_DIR ...] --output diagrams

One run's are drawn into its own `plots/` unless another folder is named; of several runs, lines are
means and bands reach from the lowest run to the highest. Pictures that this program made are replaced
there; any other file of their names is not.
"""

import sys
from collections.abc import Sequence
from pathlib import Path

if __name__ == "__main__":
    sys.path[0] = str(Path(__file__).resolve().parents[2])  # runs from any folder

from model.args import ArgumentError
from model.report.pictures import NAMES, save_plots
from model.run.directory import RunDirectoryError, read_args
from model.run.outputs import PICTURE, Parser, output_folder


def main(argv: Sequence[str]) -> int:
    """Exit status: 0, or 2 after one sentence on stderr about what cannot be read or written."""
    parser = Parser(description=__doc__.splitlines()[0])
    parser.add_argument("run_dirs", nargs="+", metavar="RUN_DIR")
    parser.add_argument("--output", help="folder for the PNG files [plots/ of one run]")
    try:
        given = parser.parse_args(argv)
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
