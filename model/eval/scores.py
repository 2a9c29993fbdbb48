"""What counts of right answers say of a policy, by task and band of primes: rows of a table."""

from collections.abc import Mapping

from compute.estimates import pass_at_k, wilson_interval
from constants import MAXIMUM_PRIME
from custom_types import TASKS, Problem
from model.args import AZRArgs
from prime_inversion import primes_between

BAND_ENDS = (7, 13, 19, 31, 61, 127, 251, MAXIMUM_PRIME)  # the same for every range
ALL, SEEN, UNSEEN = "all", "seen", "unseen"  # in training

Scores = Mapping[Problem, int]  # how many of the k answers to a problem are right


def bands(min_prime: int, max_prime: int) -> dict[str, tuple[int, ...]]:
    """The primes of the range in bands, by their names: `5-7`, `11-13`, ..."""
    named, first = {}, min_prime
    for last in BAND_ENDS:
        primes = primes_between(first, min(last, max_prime)) if first <= max_prime else ()
        if primes:
            named["-".join(map(str, dict.fromkeys((primes[0], primes[-1]))))] = tuple(primes)
        first = max(first, last + 1)
    return named


def score_rows(
    policy: str, scores: Scores, samples: int, args: AZRArgs, seen: set[Problem] | None = None
) -> list[dict]:
    """A row for each task and band that has problems: the chance that an answer is right, with its
    interval over problems, and with several samples pass@1 to pass@k."""
    rows = []
    for task in TASKS:
        own = [problem for problem in scores if problem.task is task]
        groups = {ALL: own}
        for name, primes in bands(args.min_prime, args.max_prime).items():
            groups[name] = [problem for problem in own if problem.p in primes]
        if seen is not None:
            groups[SEEN] = [problem for problem in own if problem in seen]
            groups[UNSEEN] = [problem for problem in own if problem not in seen]
        for band, problems in groups.items():
            n = len(problems)
            row = {"policy": policy, "task": str(task), "band": band}
            if n:
                right = [scores[problem] for problem in problems]
                accuracy = sum(right) / (samples * n)
                low, high = wilson_interval(accuracy, n)
                row |= {"accuracy": accuracy, "low": low, "high": high, "n": n}
                for k in range(1, samples + 1) if samples > 1 else ():
                    row[f"pass@{k}"] = sum(pass_at_k(samples, c, k) for c in right) / n
            else:
                row |= {"accuracy": None, "low": None, "high": None, "n": 0}
            rows.append(row)
    return rows
