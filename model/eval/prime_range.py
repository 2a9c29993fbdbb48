"""`--max-prime auto`: the largest range of primes that a policy can learn from at once.

The primes from `--min-prime` on are put into bands, and of each band, from below, problems are attempted n
times each: with the prompts of the range that ends with this band, as the run would write them, and at
the run's temperature. A problem that is solved sometimes and not always teaches; one that is solved
never or always teaches nothing. Of each range that ends with a band the share of such problems is
estimated, and the largest range that has the share asked for is taken.

Example: 28 problems of a task have p from 5 to 13, of which 0.9 are solved sometimes, and 34 have 17 or
19, of which 0.2 are. Then it is (28 * 0.9 + 34 * 0.2) / 62 = 0.52 of those from 5 to 19. Rates of the
lower bands were measured with the prompts of a smaller range; more than half of the problems of a range
are in its last band.
"""

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from random import Random
from statistics import fmean

from compute.metrics import token_count
from compute.reward import compute_solve_rates
from custom_types import TASKS, Problem, TaskType
from model.args import AZRArgs
from model.eval.evaluator import Evaluator
from model.eval.scores import bands
from prime_inversion import all_problems, guess_rate
from utils.tables import span_name

ASKED = 32  # problems of each task and band, or all
SMALLEST_BAND = 16  # problems of each task; fewer would say little of a band
LEAST_ATTEMPTS = 4  # with fewer, whether a problem is solved sometimes is mostly luck
COLUMNS = (
    ("primes", 9), ("problems", 10), ("solved", 8), ("guessing", 10), ("sometimes", 11), ("so far", 8),
)  # fmt: skip


@dataclass(frozen=True)
class Band:
    """What was measured in a band: the solve rate and the guess rate of each problem that was asked."""

    primes: tuple[int, ...]
    solve_rates: dict[Problem, float]
    guess_rates: dict[Problem, float]

    def size(self, task: TaskType) -> int:
        """How many problems of a task there are in the band."""
        return len(all_problems(task, self.primes[0], self.primes[-1]))

    def sometimes(self, task: TaskType) -> float:
        """The share of the asked problems of a task with 0 < solve rate < 1."""
        return fmean(0 < rate < 1 for one, rate in self.solve_rates.items() if one.task is task)


def share_of(measured: Sequence[Band]) -> float:
    """The share of problems that are solved sometimes and not always in the range of these bands: the
    mean of the tasks, in each of which a band counts by its problems."""
    return fmean(
        sum(band.size(task) * band.sometimes(task) for band in measured)
        / sum(band.size(task) for band in measured)
        for task in TASKS
    )


def largest_range(measured: Sequence[Band], share: float) -> int | None:
    """The largest prime up to which at least this `share` of problems is solved sometimes and not always;
    None where that is true of no range. measured: from the smallest primes on."""
    ranges = (measured[:end] for end in range(len(measured), 0, -1))
    return next((bands[-1].primes[-1] for bands in ranges if share_of(bands) >= share), None)


def measured_bands(min_prime: int, most: int) -> list[tuple[int, ...]]:
    """The primes from `min_prime` to `most` in bands: those of `model/eval/scores.py`, but one with fewer
    than `SMALLEST_BAND` problems of a task is joined to the next. From 5: 5-13, 17-19, 23-31, 37-61, 67-127,
    131-251, 257-617."""
    found: list[tuple[int, ...]] = []
    joined: tuple[int, ...] = ()
    for primes in bands(min_prime, most).values():
        joined += primes
        if all(len(all_problems(task, joined[0], joined[-1])) >= SMALLEST_BAND for task in TASKS):
            found.append(joined)
            joined = ()
    return [*found, joined] if joined else found


def choose_max_prime(
    args: AZRArgs, most: int, evaluator_of: Callable[[int], Evaluator], say: Callable[[str], None]
) -> tuple[int, dict]:
    """The largest prime of the range that is taken, and what was measured, in JSON's types.

    args: of the run, its `max_prime` not decided. most: the largest prime that it may be.
    evaluator_of: who asks the policy, by the largest prime of a range. say: prints a line. Where no
    range has the share asked for, the smallest is taken. Every process of a run must call this.
    """
    n = max(args.n_attempts, LEAST_ATTEMPTS)
    say(
        f"--max-prime auto: shares of problems that {n} attempts solve, by guessing, and sometimes but not "
        f"always"
    )
    say(_line([title for title, _ in COLUMNS]))
    rng, started = Random(f"{args.seed}/largest prime"), time.perf_counter()
    measured: list[Band] = []
    rows: list[dict] = []
    completions = tokens = 0
    for primes in measured_bands(args.min_prime, most):
        evaluator = evaluator_of(primes[-1])
        asked = _drawn(rng, primes)
        answers = evaluator.solve(
            [problem for problem in asked for _ in range(n)], temperature=args.temperature
        )
        completions, tokens = completions + len(answers), tokens + token_count(answers)
        rates = compute_solve_rates([evaluator.judge(answer) for answer in answers])
        guesses = {one: guess_rate(one, args.min_prime, primes[-1]) for one in asked}
        measured.append(Band(primes, rates, guesses))
        rows.append(_row(measured))
        say(
            _line(
                [
                    str(rows[-1]["primes"]),
                    str(len(asked)),
                    *(f"{rows[-1][key]:.2f}" for key in MEASURED),
                ]
            )
        )
    largest = largest_range(measured, args.auto_share)
    chosen = measured[0].primes[-1] if largest is None else largest
    seconds = time.perf_counter() - started
    problems = sum(len(band.solve_rates) for band in measured)
    if largest is None:
        say(f"no range has a share of {args.auto_share:g}: the smallest is taken")
    say(
        f"primes {args.min_prime} to {chosen}, for {problems:,} problems, {completions:,} completions, "
        f"{tokens:,} tokens, {seconds:.0f} s"
    )
    return chosen, {
        "share": args.auto_share,
        "reached": largest is not None,
        "attempts": n,
        "problems": problems,
        "completions": completions,
        "tokens": tokens,
        "seconds": round(seconds, 1),
        "bands": rows,
    }


MEASURED = ("solve_rate", "guess_rate", "sometimes", "sometimes_so_far")


def _row(measured: Sequence[Band]) -> dict[str, str | int | float]:
    """What is recorded of the last band, and of the range that ends with it."""
    band = measured[-1]
    return {
        "primes": span_name(band.primes),
        "problems": len(band.solve_rates),
        "solve_rate": fmean(band.solve_rates.values()),
        "guess_rate": fmean(band.guess_rates.values()),
        "sometimes": fmean(band.sometimes(task) for task in TASKS),
        "sometimes_so_far": share_of(measured),
    }


def _drawn(rng: Random, primes: Sequence[int]) -> list[Problem]:
    """`ASKED` problems of each task with p among `primes`, uniformly without replacement, or all."""
    drawn = []
    for task in TASKS:
        space = all_problems(task, primes[0], primes[-1])
        drawn += rng.sample(space, min(ASKED, len(space)))
    return drawn


def _line(cells: Sequence[str]) -> str:
    return "".join(cell.rjust(width) for cell, (_, width) in zip(cells, COLUMNS, strict=True))
