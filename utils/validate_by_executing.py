r"""Verdicts, by executing the arithmetic: text in, verdict out, total.

Never `eval`, never sympy on what a model wrote: the parser hands over integers of at most nine
digits, and every rule below is one comparison or one remainder. Training and evaluation both judge
here. Example: `judge_solver(r"\boxed{4}", Problem(DEDUCTION, 2, 4, 7), 5, 13) is Verdict.CORRECT`.
"""

from collections.abc import Iterable
from functools import lru_cache

from custom_types import Equation, Judged, Problem, Role, Rollout, TaskType, Verdict
from prime_inversion import fitting_primes, given_residue, modular_inverse, primes_between
from utils.string_formatting import REMEMBERED_TEXTS, parse_proposer, parse_solver


def judge_solver(text: str, problem: Problem, min_prime: int, max_prime: int) -> Verdict:
    """MALFORMED, WRONG or CORRECT. A number outside 1..p-1 is wrong; it is not reduced modulo p."""
    answer = parse_solver(text)
    if answer is None:
        return Verdict.MALFORMED
    if problem.task is TaskType.INDUCTION:
        correct = answer in fitting_primes(problem.x, problem.y, min_prime, max_prime)
    else:
        residue = given_residue(problem.task, problem.x, problem.y)
        correct = 1 <= answer < problem.p and answer * residue % problem.p == 1
    return Verdict.CORRECT if correct else Verdict.WRONG


# Proposals repeat: without the cache tiny's step takes 1.7 ms of 260 longer.
@lru_cache(maxsize=REMEMBERED_TEXTS)
def judge_proposer(
    text: str, task: TaskType, min_prime: int, max_prime: int
) -> tuple[Verdict, Problem | None]:
    """MALFORMED, INVALID or VALID, and with VALID the problem with its asked letter filled in."""
    equation = parse_proposer(text, task)
    if equation is None:
        return Verdict.MALFORMED, None
    problem = complete(equation, task, min_prime, max_prime)
    return (Verdict.VALID, problem) if problem else (Verdict.INVALID, None)


def complete(equation: Equation, task: TaskType, min_prime: int, max_prime: int) -> Problem | None:
    """The one legal problem with the given letters, or None: the environment executes the program.

    Illegal: p not a prime of the range, a residue outside 1..p-1, no prime of the range that fits
    and is larger than both x and y, or x = y = 1 for induction.
    """
    if task is TaskType.INDUCTION:
        return _with_prime(equation.x, equation.y, min_prime, max_prime)
    residue, p = given_residue(task, equation.x, equation.y), equation.p
    if residue is None or p not in primes_between(min_prime, max_prime) or not 1 <= residue < p:
        return None
    inverse = modular_inverse(residue, p)
    x, y = (inverse, residue) if task is TaskType.ABDUCTION else (residue, inverse)
    return Problem(task, x, y, p)


def _with_prime(x: int | None, y: int | None, min_prime: int, max_prime: int) -> Problem | None:
    """The induction problem of x and y; None if no prime of the range fits and is larger than both."""
    if x is None or y is None or x < 1 or y < 1 or x == y == 1:
        return None
    larger = [q for q in fitting_primes(x, y, min_prime, max_prime) if q > max(x, y)]
    return Problem(TaskType.INDUCTION, x, y, larger[0]) if larger else None


def judged_text(text: str, finished: bool) -> str:
    """What a response is judged by: nothing, which is malformed, if it did not end within its limit.

    An unfinished response is malformed; this is the only place that says so.
    """
    return text if finished else ""


def judge_rollout(rollout: Rollout, min_prime: int, max_prime: int) -> Judged:
    """A rollout with its verdict and, where it is a valid proposal, its problem."""
    text = judged_text(rollout.text, rollout.finished)
    if rollout.role is Role.PROPOSER:
        return Judged(rollout, *judge_proposer(text, rollout.task, min_prime, max_prime))
    return Judged(rollout, judge_solver(text, rollout.problem, min_prime, max_prime))


def judge_rollouts(rollouts: Iterable[Rollout], min_prime: int, max_prime: int) -> list[Judged]:
    """Each rollout, judged, in order."""
    return [judge_rollout(rollout, min_prime, max_prime) for rollout in rollouts]
