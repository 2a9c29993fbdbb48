"""The report of a run, or of several compared: one HTML file, in the first of their folders.

    python model/eval/report.py runs/first
    python model/eval/report.py runs/study/self/seed* runs/study/uniform/seed*
    python model/eval/report.py runs/first runs/second --output first_and_second.html

Runs that differ in nothing but the seed are drawn as one, with the range between them as a band. One
run's replaces `report.html`, which training wrote there; that of several is `comparison.html`. A file
that is no report is not replaced.
"""

import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

if __name__ == "__main__":
    sys.path[0] = str(Path(__file__).resolve().parents[2])  # runs from any folder

from model.flags import ArgumentError, Flags, flag, parse, positional
from model.report.sections import save_report
from model.run.layout import COMPARISON, REPORT
from model.run.outputs import PAGE, output_file, require_own
from model.run.rows import RunDirectoryError


@dataclass(frozen=True)
class ReportArgs(Flags):
    """The command line."""

    run_dirs: tuple[str, ...] = positional("RUN_DIR", "finished runs")
    output: str | None = flag(
        None, f"the HTML file [{REPORT} of one run, {COMPARISON} of several, in the first]"
    )


def main(argv: Sequence[str]) -> int:
    """Exit status: 0, or 2 after one sentence on stderr about what cannot be read or written."""
    try:
        given = parse(ReportArgs, argv, about=__doc__.splitlines()[0])
        first, several = Path(given.run_dirs[0]), len(given.run_dirs) > 1
        if given.output is not None:
            path = output_file(given.output, PAGE)
        elif several:
            path = require_own(first / COMPARISON, PAGE)
        else:
            path = first / REPORT
        print(save_report(given.run_dirs, path))
    except (ArgumentError, RunDirectoryError, OSError) as error:
        print(error, file=sys.stderr)
        return 2
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
