"""The arithmetic. Oracles: sympy, brute force over 1..p-1, exact counts, and a known distribution."""

import math
import random
import re
from collections import Counter
from dataclasses import FrozenInstanceError, replace
from random import Random

import numpy as np
import pytest
import sympy

from constants import PRIMES
from custom_types import TASKS, Problem, TaskType, Verdict
from prime_inversion import (
    all_problems,
    best_constant,
    best_without_p,
    fitting_primes,
    generate_problems,
    given_residue,
    guess_rate,
    is_prime,
    modular_inverse,
    primes_between,
)
from utils.string_formatting import format_equation
from utils.validate_by_executing import judge_solver

ABDUCTION, DEDUCTION, INDUCTION = TASKS
SPANS = [(5, 13), (5, 617), (11, 23), (7, 7), (14, 100), (617, 617)]


def brute_force_inverses(p: int) -> dict[int, int]:
    """The one b in 1..p-1 with a * b ≡ 1 (mod p), for each a, by trying them all."""
    residues = np.arange(1, p)
    rows, columns = np.nonzero(np.outer(residues, residues) % p == 1)
    assert len(rows) == p - 1  # one inverse each
    return dict(zip((rows + 1).tolist(), (columns + 1).tolist(), strict=True))


def chi_square_of_task_then_uniform(problems: list[Problem]) -> float:
    """Against: a third of the draws to each task, then uniform in its space, primes 5 to 13."""
    counts = Counter(problems)
    spaces = [all_problems(task, 5, 13) for task in TASKS]
    expected = {p: len(problems) / 3 / len(space) for space in spaces for p in space}
    return sum((counts[p] - mean) ** 2 / mean for p, mean in expected.items())


def test_the_table_of_primes_is_the_first_113():
    assert list(PRIMES) == list(sympy.primerange(2, 618))
    assert len(PRIMES) == 113 and PRIMES[-1] == 617


def test_is_prime_agrees_with_sympy():
    # 561 and 41041 are Carmichael numbers, 617^2 has no small factor, 2^61 - 1 is a Mersenne prime.
    special = [561, 41041, 617**2, 613 * 617, 2**61 - 1, 2**61 + 1, 10**18 + 9, -7, -(10**20)]
    for n in [*range(-50, 5000), *special]:
        assert is_prime(n) is bool(sympy.isprime(n)), n


@pytest.mark.parametrize("low, high", [*SPANS, (2, 617), (24, 28), (13, 5)])
def test_primes_between_includes_both_ends(low, high):
    assert list(primes_between(low, high)) == list(sympy.primerange(low, high + 1))


def test_every_inverse_to_617_by_two_independent_routes():
    for p in PRIMES:
        for a, b in brute_force_inverses(p).items():
            assert modular_inverse(a, p) == b == sympy.mod_inverse(a, p), (a, p)


@pytest.mark.parametrize("a", [-1, -20, 8, 15, 10**30])
def test_congruent_integers_have_the_same_inverse(a):
    assert modular_inverse(a, 7) == modular_inverse(a % 7, 7) == sympy.mod_inverse(a, 7)


@pytest.mark.parametrize(
    "a, p", [(3, 9), (2, 9), (1, 1), (1, 0), (1, -7), (3, 4), (0, 7), (14, 7), (-7, 7)]
)
def test_no_inverse_modulo_a_composite_or_of_a_multiple(a, p):
    with pytest.raises(ValueError, match=str(p)):
        modular_inverse(a, p)


@pytest.mark.parametrize("low, high", SPANS)
def test_fitting_primes_are_the_prime_factors_of_xy_less_1_in_range(low, high):
    rng = Random(0)
    space = all_problems(INDUCTION, 5, 617)
    pairs = [(p.x, p.y) for p in space[:200] + rng.sample(space, 2000)]
    pairs += [
        (rng.randint(1, 10**9), rng.randint(2, 10**9)) for _ in range(20)
    ]  # what a parser hands over
    for x, y in pairs:
        # Factored only as far as 617: what is left may be a large composite, and is out of range.
        factors = sympy.factorint(x * y - 1, limit=618)
        expected = sorted(q for q in factors if low <= q <= high and sympy.isprime(q))
        assert list(fitting_primes(x, y, low, high)) == expected, (x, y)


def test_at_most_one_fitting_prime_lies_above_both_and_it_is_the_problems_own():
    # Every pair with 1 <= x, y <= 616, every prime of the range: 42 million remainders.
    numbers = np.arange(1, 617)
    product, larger = np.outer(numbers, numbers), np.maximum.outer(numbers, numbers)
    above, the_prime = np.zeros_like(product), np.zeros_like(product)
    for q in primes_between(5, 617):
        fits = (product % q == 1) & (larger < q)
        above += fits
        the_prime[fits] = q
    above[0, 0] = the_prime[0, 0] = 0  # x = y = 1: every prime fits, so it is no problem
    assert above.max() == 1
    expected = {(x + 1, y + 1, int(the_prime[x, y])) for x, y in np.argwhere(above).tolist()}
    assert {(p.x, p.y, p.p) for p in all_problems(INDUCTION, 5, 617)} == expected


def test_sizes_of_the_problem_space():
    # Each of x = 1..p-1 has one inverse: 4 + 6 + 10 + 12 = 32; induction loses (1, 1) for each prime.
    assert [len(all_problems(task, 5, 13)) for task in TASKS] == [32, 32, 28]
    for low, high in SPANS:
        primes = list(sympy.primerange(low, high + 1))
        total = sum(p - 1 for p in primes)
        sizes = [len(set(all_problems(task, low, high))) for task in TASKS]
        assert sizes == [total, total, total - len(primes)]


@pytest.mark.parametrize("task", TASKS)
def test_the_problem_space_is_every_legal_triple(task):
    legal = [
        (x, y, p)
        for p in (5, 7, 11, 13) for x in range(1, p) for y in range(1, p)
        if x * y % p == 1 and not (task is INDUCTION and x == y == 1)
    ]  # fmt: skip
    problems = all_problems(task, 5, 13)
    assert [(p.x, p.y, p.p) for p in problems] == legal
    assert {p.task for p in problems} == {task}
    problems.clear()  # the caller's own list: emptying it must not empty the space
    assert len(all_problems(task, 5, 13)) == len(legal)


def test_generated_problems_cover_the_space_evenly():
    drawn = generate_problems(20_000, Random(0), 5, 13)
    assert len(set(drawn)) == 92
    # 92 cells, 91 degrees of freedom: chi-square exceeds 137.2 once in a thousand seeds.
    assert chi_square_of_task_then_uniform(drawn) < 137.2
    # Negative control: a draw that likes small x is found out.
    rng = Random(0)
    pairs = [min(generate_problems(2, rng, 5, 13), key=lambda p: p.x) for _ in range(20_000)]
    assert chi_square_of_task_then_uniform(pairs) > 137.2


def test_generation_depends_on_its_generator_alone():
    outside = random.getstate()
    first = generate_problems(50, Random(3), 5, 617)
    assert (
        generate_problems(50, Random(3), 5, 617)
        == first
        != generate_problems(50, Random(4), 5, 617)
    )
    rng = Random(3)  # two draws in a row are one long draw
    assert generate_problems(20, rng, 5, 617) + generate_problems(30, rng, 5, 617) == first
    assert random.getstate() == outside


def test_generation_can_be_narrowed_to_tasks():
    drawn = generate_problems(500, Random(0), 5, 13, tasks=(INDUCTION, DEDUCTION))
    assert Counter(p.task for p in drawn).keys() == {INDUCTION, DEDUCTION}
    assert {p for p in drawn if p.task is INDUCTION} == set(all_problems(INDUCTION, 5, 13))


@pytest.mark.parametrize("low, high", [(5, 13), (11, 23), (3, 97)])
def test_guess_rate_is_the_share_of_legal_guesses_that_are_right(low, high):
    for task in TASKS:
        for problem in all_problems(task, low, high):
            x, y, p = problem.x, problem.y, problem.p
            right = {
                ABDUCTION: [a * y % p == 1 for a in range(1, p)],
                DEDUCTION: [x * a % p == 1 for a in range(1, p)],
                INDUCTION: [(x * y - 1) % q == 0 for q in sympy.primerange(low, high + 1)],
            }[task]
            assert guess_rate(problem, low, high) == pytest.approx(
                sum(right) / len(right), abs=1e-15
            )


@pytest.mark.parametrize("task", TASKS)
def test_a_problem_is_built_exactly_when_it_is_legal(task):
    primes = (2, 3, 5, 7, 11, 13)
    for p in range(-2, 16):
        for x in range(-2, 16):
            for y in range(-2, 16):
                trivial = task is INDUCTION and x == y == 1
                if p in primes and 0 < x < p and 0 < y < p and (x * y - 1) % p == 0 and not trivial:
                    assert (
                        getattr(Problem(task, x, y, p), task.asked)
                        == Problem(task, x, y, p).solution
                    )
                else:
                    with pytest.raises(ValueError):
                        Problem(task, x, y, p)


@pytest.mark.parametrize(
    "task, x, y, p",
    [
        (DEDUCTION, 2, 310, 619),  # prime, but above 617
        (DEDUCTION, True, 1, 7),  # a bool is an int to isinstance, not to an equation
        (DEDUCTION, 2.0, 4, 7),
        (DEDUCTION, "2", 4, 7),
        (DEDUCTION, np.int64(2), 4, 7),
        (DEDUCTION, 2, 4, None),
        ("deduction", 2, 4, 7),  # a plain string would make a second, unequal problem
        (None, 2, 4, 7),
    ],
)
def test_a_problem_of_wrong_types_or_range_is_refused(task, x, y, p):
    with pytest.raises(ValueError):
        Problem(task, x, y, p)


def test_a_problem_cannot_become_invalid():
    problem = Problem(TaskType.DEDUCTION, 2, 4, 7)
    with pytest.raises(FrozenInstanceError):
        problem.y = 5
    with pytest.raises(ValueError):
        replace(problem, y=5)
    with pytest.raises(ValueError):
        replace(Problem(ABDUCTION, 1, 1, 7), task=INDUCTION)


@pytest.mark.parametrize("span", [(5, 13), (11, 23)])
@pytest.mark.parametrize("task", TASKS)
def test_no_answer_that_never_changes_is_right_more_often(task, span):
    """Every answer there is, judged against every problem."""
    space = all_problems(task, *span)
    shares = [
        sum(
            judge_solver(f"\\boxed{{{answer}}}", problem, *span) is Verdict.CORRECT
            for problem in space
        )
        / len(space)
        for answer in range(1, span[1] + 1)
    ]
    assert best_constant(task, *span) == max(shares)


@pytest.mark.parametrize("task", [ABDUCTION, DEDUCTION])
def test_the_given_residue_is_the_number_that_the_equation_shows_beside_p(task):
    for problem in all_problems(task, 5, 13):
        equation = format_equation(problem).removesuffix(f" ≡ 1 (mod {problem.p})")
        (shown,) = map(int, re.findall("[0-9]+", equation))
        assert given_residue(task, problem.x, problem.y) == shown


def test_the_best_table_without_p_by_hand():
    # Modulo 5 the inverses of 1, 2, 3, 4 are 1, 3, 2, 4; modulo 7 those of 1 to 6 are 1, 4, 5, 2, 3, 6.
    # For the residue 1 the answer 1 is right both times, for each other residue one answer once.
    assert best_without_p(ABDUCTION, 5, 7) == best_without_p(DEDUCTION, 5, 7) == 7 / 10
    assert math.isnan(best_without_p(INDUCTION, 5, 7))
