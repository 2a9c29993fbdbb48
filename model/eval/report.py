"""The report of a run, or of several compared: one HTML file, `report.html`, in the first of them.

    python model/eval/report.py runs/first
    python model/eval/report.py runs/study/self/seed* runs/study/uniform/seed*

Runs that differ in nothing but the seed are drawn as one, with the range between them as a band. It
replaces the report that training wrote there.
"""

import sys
from collections.abc import Sequence
from pathlib import Path

if __name__ == "__main__":
    sys.path[0] = str(Path(__file__).resolve().parents[2])  # runs from any folder

from utils.report import save_report
from utils.run_directory import REPORT, RunDirectoryError


def main(argv: Sequence[str]) -> int:
    """Exit status: 0, or 2 after one sentence on stderr about what cannot be read or written."""
    if not argv or argv[0] in ("-h", "--help"):
        print(__doc__)
        return 0 if argv else 2
    try:
        print(save_report(argv, Path(argv[0]) / REPORT))
    except (RunDirectoryError, OSError) as error:
        print(error, file=sys.stderr)
        return 2
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
