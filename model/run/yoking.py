"""What a yoked run follows: how many problems another run proposed, step by step."""

from collections import Counter

from custom_types import TASKS, Problem
from model.args import AZRArgs
from model.run.finished import FinishedRun
from model.run.rows import Row, RunDirectoryError
from prime_inversion import is_held_out


def proposed_counts(args: AZRArgs) -> dict[int, Counter]:
    """How many distinct valid problems of each task the run `args.yoked_to` proposed, by step; held-out
    ones do not count. Raises RunDirectoryError unless it proposed, among the same primes and with the
    same ones held out, for as many steps as `args` asks."""
    assert args.yoked_to is not None  # AZRArgs sees to it
    flag, followed = f"--yoked-to {args.yoked_to}", FinishedRun(args.yoked_to)
    try:
        span, steps = (followed.args["min_prime"], followed.args["max_prime"]), followed.problems
    except RunDirectoryError as error:
        raise RunDirectoryError(f"{flag}: must be a run directory ({error})") from error
    if span != (args.min_prime, args.max_prime):
        raise RunDirectoryError(
            f"{flag}: must be a run with primes {args.min_prime} to {args.max_prime}"
        )
    if followed.args["held_out"] != args.held_out:
        raise RunDirectoryError(f"{flag}: must be a run with --held-out {args.held_out:g}")
    if len(steps) < args.total_steps:
        raise RunDirectoryError(
            f"{flag}: must have the {args.total_steps} steps of --total-steps; it has {len(steps)}"
        )
    return {row["step"]: _counts(row, args.held_out) for row in steps}


def _counts(row: Row, held_out: float) -> Counter:
    return Counter(problem.task for problem in _proposed(row) if not is_held_out(problem, held_out))


def _proposed(row: Row) -> list[Problem]:
    """The problems that a row of problems.jsonl has that were proposed in its step; the others were
    attempted alone. Raises RunDirectoryError for numbers that are no problem."""
    try:
        return [
            Problem(task, x, y, p)
            for task in TASKS
            for x, y, p, times, _ in row[str(task)]
            if times > 0
        ]
    except ValueError as error:
        raise RunDirectoryError(f"{row.where}: {error}") from error
