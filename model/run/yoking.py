"""What a yoked run follows: how many problems another run proposed, step by step."""

from collections import Counter
from collections.abc import Mapping

from custom_types import TASKS
from model.args import AZRArgs
from model.run.finished import FinishedRun
from model.run.rows import RunDirectoryError


def proposed_counts(args: AZRArgs) -> dict[int, Counter]:
    """How many distinct valid problems of each task the run `args.yoked_to` proposed, by step. Raises
    RunDirectoryError unless it proposed, among the same primes, for as many steps as `args` asks."""
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
    if len(steps) < args.total_steps:
        raise RunDirectoryError(
            f"{flag}: must have the {args.total_steps} steps of --total-steps; it has {len(steps)}"
        )
    return {row["step"]: _proposed(row) for row in steps}


def _proposed(row: Mapping) -> Counter:
    """How many problems of each task a row of problems.jsonl has that were proposed in its step; the
    others were attempted alone."""
    return Counter({task: sum(times > 0 for _, _, _, times, _ in row[str(task)]) for task in TASKS})
