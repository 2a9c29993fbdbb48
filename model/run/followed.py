"""What the run that `--yoked-to` names proposed."""

from collections import Counter
from pathlib import Path

from custom_types import TASKS
from model.args import AZRArgs
from model.run.directory import RunDirectoryError, read_config, read_problems


def proposed_counts(args: AZRArgs) -> dict[int, Counter]:
    """How many distinct valid problems of each task the run `args.yoked_to` proposed, by step. Raises
    RunDirectoryError unless it proposed, among the same primes, for as many steps as `args` asks."""
    flag, folder = f"--yoked-to {args.yoked_to}", Path(args.yoked_to)
    try:
        other, steps = read_config(folder)["args"], read_problems(folder)
    except RunDirectoryError as error:
        raise RunDirectoryError(f"{flag}: must be a run directory ({error})") from error
    span = args.min_prime, args.max_prime
    if (other.get("min_prime"), other.get("max_prime")) != span:
        raise RunDirectoryError(f"{flag}: must be a run with primes {span[0]} to {span[1]}")
    if len(steps) < args.total_steps:
        raise RunDirectoryError(
            f"{flag}: must have the {args.total_steps} steps of --total-steps; it has {len(steps)}"
        )
    return {
        row["step"]: Counter({t: sum(times > 0 for *_, times, _ in row[str(t)]) for t in TASKS})
        for row in steps
    }
