"""The arithmetic of x * y ≡ 1 (mod p): primes, inverses, fitting primes, and every problem there is.

Numbers in, numbers and `Problem`s out; no text and no tensors. Example: 2 * 4 ≡ 1 (mod 7), so
`modular_inverse(4, 7) == 2` and `fitting_primes(2, 4, 5, 13) == (7,)`.
"""

from bisect import bisect_left, bisect_right
from collections import Counter
from functools import cache, lru_cache
from random import Random
from typing import TypeVar

from constants import MAXIMUM_PRIME, PRIMES
from custom_types import TASKS, Problem, TaskType

_PRIME_SET = frozenset(PRIMES)
T = TypeVar("T")


def is_prime(n: int) -> bool:
    """Whether `n` is prime, for any int: by the table up to 617, by sympy above it."""
    if n <= MAXIMUM_PRIME:
        return n in _PRIME_SET
    from sympy import isprime  # takes half a second to import, and no problem has so large a number

    return isprime(n)


def primes_between(min_prime: int, max_prime: int) -> tuple[int, ...]:
    """The primes q with min_prime <= q <= max_prime <= 617, ascending."""
    return PRIMES[bisect_left(PRIMES, min_prime) : bisect_right(PRIMES, max_prime)]


def given_residue(task: str, x: T, y: T) -> T:
    """The residue that a problem of `task`, by name, shows: y if x is asked, x otherwise. (Induction
    shows y too.)"""
    return y if task == TaskType.ABDUCTION else x


def modular_inverse(a: int, p: int) -> int:
    """The b in 1..p-1 with a * b ≡ 1 (mod p). Raises ValueError if p divides a or p is not prime."""
    if not is_prime(p):
        raise ValueError(f"p = {p} is not prime")
    if a % p == 0:
        raise ValueError(f"{a} has no inverse modulo {p}")
    return pow(a, -1, p)


def fitting_primes(x: int, y: int, min_prime: int, max_prime: int) -> tuple[int, ...]:
    """Every prime q in min_prime..max_prime with x * y ≡ 1 (mod q), ascending.

    These are the accepted answers of an induction problem. At most one of them is larger than both
    x and y, and that one is the problem's p: two such primes would both divide x * y - 1, and their
    product is larger than that.
    """
    return tuple(q for q in primes_between(min_prime, max_prime) if x * y % q == 1)


# Every draw of a problem asks for its space: 62 ms to make for primes up to 617, 0.2 ms up to 31.
@lru_cache(maxsize=32)
def _problem_space(task: TaskType, min_prime: int, max_prime: int) -> tuple[Problem, ...]:
    return tuple(
        Problem(task, x, modular_inverse(x, p), p)
        for p in primes_between(min_prime, max_prime)
        for x in range(1, p)
        if not (task is TaskType.INDUCTION and x == modular_inverse(x, p) == 1)
    )


def all_problems(task: TaskType, min_prime: int, max_prime: int) -> list[Problem]:
    """Every problem of a task, ordered by p, then x: p - 1 for each prime p, and one less for induction."""
    return list(_problem_space(task, min_prime, max_prime))


def is_held_out(problem: Problem, share: float) -> bool:
    """Whether a problem is among the `share` of all problems that no answer is ever trained on.

    Half of the share are whole primes, counted from 2: with a share of 0.4 every fifth one, 11, 29, 47
    and so on. The other half are whole orbits of the primes that are left: (x, y, p) and (y, x, p) in
    all three tasks, drawn at random, but the same for every run, range and seed. What a share holds out
    of orbits, a larger one holds out too.
    """
    if share == 0:
        return False
    whole = share / 2
    place = bisect_left(PRIMES, problem.p)
    if int((place + 1) * whole) > int(place * whole):
        return True
    x, y = sorted((problem.x, problem.y))
    return _orbit_draw(x, y, problem.p) < whole / (1 - whole)


# Seeding a generator takes 10 us, and there are 16,000 orbits up to 617.
@cache
def _orbit_draw(x: int, y: int, p: int) -> float:
    """The number in 0..1 that an orbit has drawn."""
    return Random(f"held out {x} {y} {p}").random()


@lru_cache(maxsize=32)  # as often asked for as `_problem_space`
def _trained_space(
    task: TaskType, min_prime: int, max_prime: int, held_out: float
) -> tuple[Problem, ...]:
    space = _problem_space(task, min_prime, max_prime)
    return tuple(problem for problem in space if not is_held_out(problem, held_out))


def trained_problems(
    task: TaskType, min_prime: int, max_prime: int, held_out: float
) -> list[Problem]:
    """The problems of a task that may be trained on, where the share `held_out` may not."""
    return list(_trained_space(task, min_prime, max_prime, held_out))


def evaluated_problems(
    task: TaskType, min_prime: int, max_prime: int, held_out: float
) -> list[Problem]:
    """The problems of a task that accuracy is measured on: those held out, or all where none are."""
    space = all_problems(task, min_prime, max_prime)
    return [problem for problem in space if is_held_out(problem, held_out)] if held_out else space


def generate_problems(
    n: int,
    rng: Random,
    min_prime: int,
    max_prime: int,
    *,
    tasks: tuple[TaskType, ...] = TASKS,
    held_out: float = 0.0,
) -> list[Problem]:
    """`n` problems drawn with replacement: each time a task of `tasks`, then one of its problems that
    are not among the share `held_out`."""
    span = min_prime, max_prime
    return [rng.choice(_trained_space(rng.choice(tasks), *span, held_out)) for _ in range(n)]


def generate_of_each_task(n: int, rng: Random, min_prime: int, max_prime: int) -> list[Problem]:
    """`n` problems of each task in turn, drawn as `generate_problems` does."""
    return [
        problem
        for task in TASKS
        for problem in generate_problems(n, rng, min_prime, max_prime, tasks=(task,))
    ]


def guess_rate(problem: Problem, min_prime: int, max_prime: int) -> float:
    """The chance that a uniform legal guess is right: 1/(p-1), or for induction the share of the primes
    that are accepted."""
    if problem.task is TaskType.INDUCTION:
        accepted = fitting_primes(problem.x, problem.y, min_prime, max_prime)
        return len(accepted) / len(primes_between(min_prime, max_prime))
    return 1 / (problem.p - 1)


def best_constant(task: TaskType, min_prime: int, max_prime: int, held_out: float = 0.0) -> float:
    """The share of a task's `evaluated_problems` that a solver gets right if it always gives the same,
    best answer."""
    space = evaluated_problems(task, min_prime, max_prime, held_out)
    accepted = Counter(
        answer
        for problem in space
        for answer in (
            fitting_primes(problem.x, problem.y, min_prime, max_prime)
            if task is TaskType.INDUCTION
            else (problem.solution,)
        )
    )
    return max(accepted.values()) / len(space)


def best_without_p(task: TaskType, min_prime: int, max_prime: int, held_out: float = 0.0) -> float:
    """The share of a task's `evaluated_problems` that a solver gets right if it looks at the given
    residue, not at p, and gives the best answer for it: what can be had without arithmetic modulo p.
    NaN for induction, which asks p."""
    if task is TaskType.INDUCTION:
        return float("nan")
    space = evaluated_problems(task, min_prime, max_prime, held_out)
    answers: dict[int, Counter[int]] = {}  # by given residue
    for problem in space:
        residue = given_residue(task, problem.x, problem.y)
        answers.setdefault(residue, Counter())[problem.solution] += 1
    return sum(max(counts.values()) for counts in answers.values()) / len(space)
