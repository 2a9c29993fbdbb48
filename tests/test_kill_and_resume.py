"""A short `tests/benchmarks/kill_and_resume.py`: real SIGKILLs. Oracle: a run that is left alone."""

import subprocess
import sys

import pytest

from constants import ROOT

pytestmark = pytest.mark.slow


def test_killed_runs_become_the_run_that_was_not_killed():
    """Before a rollout, in a log's line, before a rename."""
    script = ROOT / "tests" / "benchmarks" / "kill_and_resume.py"
    points = ["--points=rollout", "--points=log", "--points=checkpoint rename"]
    argv = [sys.executable, str(script), "--kills", "3", "--seed", "7", *points]
    result = subprocess.run(argv, capture_output=True, text=True)
    assert result.returncode == 0, result.stdout + result.stderr
    assert result.stdout.count(": equal\n") == 3
    assert "0 differ, 0 unreadable files" in result.stdout
