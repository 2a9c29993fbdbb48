"""What a run follows that is yoked to another: the problems which that one proposed, step by step."""

from custom_types import TASKS, Problem
from model.args import AZRArgs
from model.run.finished import FinishedRun
from model.run.rows import Row, RunDirectoryError
from prime_inversion import is_held_out


def proposed_problems(args: AZRArgs) -> dict[int, list[Problem]]:
    """The distinct valid problems that the run `args.yoked_to` proposed, by step, those excepted that it
    held out. Raises RunDirectoryError unless it proposed, among the same primes and with the
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
    return {
        row["step"]: [p for p in _proposed(row) if not is_held_out(p, args.held_out)]
        for row in steps
    }


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
