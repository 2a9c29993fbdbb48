"""What of a run directory must be the same of two runs of one seed, and what of it cannot be read."""

import json
from contextlib import redirect_stderr, redirect_stdout
from io import StringIO
from pathlib import Path
from subprocess import CompletedProcess

from helpers.trainers import untimed
from model import train
from model.run.checkpoints import VALUES, damage
from model.run.layout import SUPERSEDED

# A short run of `tiny`.
SMALL = [
    "--model", "tiny", "--max-prime", "13", "--batch-size", "8", "--n-attempts", "2", "--minibatches", "2",
    "--warm-start-steps", "10", "--no-eval-uniform", "--eval-every", "5", "--checkpoint-every", "5",
]  # fmt: skip


def rows(file: Path) -> list[dict]:
    """A log's rows without times; raises ValueError for a line that is no JSON."""
    lines = file.read_text(encoding="utf-8").splitlines()
    return [untimed(json.loads(line)) for line in lines]


def contents(run_dir: Path) -> dict[str, object]:
    """All that must be the same of two runs: logs without times, and every file of the checkpoints. What
    an interruption cost, `superseded-N`, is not of the run."""
    found: dict[str, object] = {
        "metrics.jsonl": rows(run_dir / "metrics.jsonl"),
        "rollouts.jsonl": (run_dir / "rollouts.jsonl").read_bytes(),
        "problems.jsonl": (run_dir / "problems.jsonl").read_bytes(),
        "evaluations.jsonl": (run_dir / "evaluations.jsonl").read_bytes(),
        "latest": (run_dir / "checkpoints" / "latest").read_text(),
        "best": (run_dir / "checkpoints" / "best").read_text(),
        "children": sorted(
            path.name for path in run_dir.iterdir() if not path.name.startswith(SUPERSEDED)
        ),
    }
    for file in sorted((run_dir / "checkpoints").glob("*/*")):
        name = f"{file.parent.name}/{file.name}"
        if file.name == VALUES:
            values = json.loads(file.read_text(encoding="utf-8"))
            del values["recorder"]["logs"]  # bytes of logs, which have times in them
            for key in ("run_dir", "total_steps"):  # where it is, and how far it was to go then
                del values["args"][key]
            found[name] = values
        elif file.name != "manifest.json":  # which has the size of the file above
            found[name] = file.read_bytes()
    return found


def unreadable(run_dir: Path) -> list[str]:
    """Files that stand under their own names and cannot be read: right after a kill, a log's last line
    may be half a line, and nothing else."""
    bad = []
    for file in run_dir.glob("*.jsonl"):
        whole = file.read_bytes().rpartition(b"\n")[0]
        bad += [f"{file.name}: {line[:40]!r}" for line in whole.splitlines() if not is_json(line)]
    for folder in (run_dir / "checkpoints").glob("step_*"):
        bad += [f"{folder.name}: {reason}" for reason in [damage(folder)] if reason]
    config = run_dir / "config.json"
    if config.exists() and not is_json(config.read_bytes()):
        bad.append("config.json")
    return bad


def is_json(line: bytes) -> bool:
    try:
        json.loads(line)
    except ValueError:
        return False
    return True


def assert_equal_runs(one: Path, other: Path) -> None:
    """To the last bit, times aside."""
    ours, theirs = contents(one), contents(other)
    assert ours.keys() == theirs.keys()
    assert not [name for name in ours if ours[name] != theirs[name]]


def main_here(*argv: str) -> CompletedProcess:
    """train.py in this process, which starts faster than another one."""
    with redirect_stdout(StringIO()) as said, redirect_stderr(StringIO()) as complained:
        status = train.main(argv)
    return CompletedProcess(argv, status, said.getvalue(), complained.getvalue())


def done_here(*argv: str) -> CompletedProcess:
    """The result of a run that succeeds."""
    result = main_here(*argv)
    assert result.returncode == 0, result.stderr
    return result
