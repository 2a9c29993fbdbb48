"""The verifier. Oracles: brute force from the written rules, and totality on hostile text."""

from random import Random

import pytest
from helpers.hostile_text import FORM, ONE_OF_EACH, SPAN
from hypothesis import example, given, settings
from hypothesis import strategies as st

from custom_types import TASKS, Judged, Problem, Role, Rollout, TaskType, Verdict
from prime_inversion import all_problems
from utils.validate_by_executing import judge_proposer, judge_rollout, judge_solver

ABDUCTION, DEDUCTION, INDUCTION = TASKS
MALFORMED, WRONG, CORRECT, INVALID, VALID = Verdict


def box(content: object) -> str:
    return rf"\boxed{{{content}}}"


def divides(q: int, n: int) -> bool:
    return n // q * q == n


def is_prime(n: int) -> bool:
    return n > 1 and not any(divides(d, n) for d in range(2, n))


def primes(low: int, high: int) -> list[int]:
    return [q for q in range(low, high + 1) if is_prime(q)]


# ---------------------------------------------------------------- brute force


@pytest.mark.parametrize("task", TASKS)
def test_every_answer_to_every_problem_to_13(task):
    for problem in all_problems(task, *SPAN):
        x, y, p = problem.x, problem.y, problem.p
        accepted = {
            ABDUCTION: {a for a in range(1, p) if divides(p, a * y - 1)},
            DEDUCTION: {a for a in range(1, p) if divides(p, x * a - 1)},
            INDUCTION: {q for q in primes(*SPAN) if divides(q, x * y - 1)},
        }[task]
        assert problem.solution in accepted
        # A congruent number outside 1..p-1 is among these, and must not be reduced.
        for answer in range(-2 - 13, 2 * 13 + 3):
            expected = CORRECT if answer in accepted else WRONG
            assert judge_solver(box(answer), problem, *SPAN) is expected, (problem, answer)


def test_every_prime_that_fits_answers_an_induction_problem_if_it_is_in_range():
    problem = Problem(INDUCTION, 7, 8, 11)  # 7 * 8 - 1 = 55 = 5 * 11
    assert [judge_solver(box(q), problem, 5, 13) for q in (5, 11, 7, 55)] == [
        CORRECT,
        CORRECT,
        WRONG,
        WRONG,
    ]
    assert [judge_solver(box(q), problem, 7, 13) for q in (5, 11)] == [WRONG, CORRECT]
    assert (
        judge_solver(box(3), Problem(INDUCTION, 4, 4, 5), 5, 13) is WRONG
    )  # 15 = 3 * 5, and 3 < 5


def legal_problem(task: TaskType, first: int, second: int, low: int, high: int):
    """The triple that the rules allow for the two given numbers, found by trying all; or None."""
    if task is INDUCTION:
        x, y = first, second
        if x < 1 or y < 1 or (x == 1 and y == 1):
            return None
        above = [q for q in primes(low, high) if q > x and q > y and divides(q, x * y - 1)]
        return (x, y, above[0]) if above else None
    known, p = first, second
    if p not in primes(low, high) or not 1 <= known <= p - 1:
        return None
    (found,) = [a for a in range(1, p) if divides(p, a * known - 1)]
    return (found, known, p) if task is ABDUCTION else (known, found, p)


@pytest.mark.parametrize("span", [(5, 13), (7, 11), (5, 5), (11, 23)])
@pytest.mark.parametrize("task", TASKS)
def test_every_small_proposal(task, span):
    valid = set()
    for first in range(-1, 25):
        for second in range(-1, 25):
            expected = legal_problem(task, first, second, *span)
            verdict, problem = judge_proposer(box(FORM[task].format(first, second)), task, *span)
            if expected is None:
                assert (verdict, problem) == (INVALID, None), (first, second)
            else:
                assert (verdict, problem) == (VALID, Problem(task, *expected)), (first, second)
                valid.add(problem)
    assert valid == set(all_problems(task, *span))  # what can be proposed is what can be asked


@pytest.mark.parametrize("asked", TASKS)
@pytest.mark.parametrize("written", TASKS)
def test_a_proposal_of_another_task_is_malformed(asked, written):
    given_numbers = {ABDUCTION: (4, 7), DEDUCTION: (2, 7), INDUCTION: (2, 4)}[written]
    verdict, problem = judge_proposer(box(FORM[written].format(*given_numbers)), asked, *SPAN)
    expected = (VALID, Problem(asked, 2, 4, 7)) if asked is written else (MALFORMED, None)
    assert (verdict, problem) == expected


# ---------------------------------------------------------------- hostile text


def judge_everything(text: str) -> list[Verdict]:
    """All verdicts on a text; checks what must hold of each, whatever the text."""
    verdicts = []
    for problem in ONE_OF_EACH:
        answered = judge_solver(text, problem, *SPAN)
        proposed, proposal = judge_proposer(text, problem.task, *SPAN)
        assert answered in (MALFORMED, WRONG, CORRECT) and proposed in (MALFORMED, INVALID, VALID)
        assert (proposal is not None) == (proposed is VALID)
        if proposal is not None:
            assert proposal in all_problems(problem.task, *SPAN)
        verdicts += [answered, proposed]
    # Whatever counts as well formed has a box and an ASCII digit in it.
    if "\\boxed{" not in text or not set(text) & set("0123456789"):
        assert set(verdicts) == {MALFORMED}
    return verdicts


# Weighted towards what the grammars are made of: pure noise would never reach the number parser.
PIECES = st.sampled_from(
    "\\boxed{ } { x y p * ≡ = (mod ) 1 7 - ٣ 9999999999 \\".split(" ") + [" ", "\n"]
)


@settings(max_examples=400, deadline=None, derandomize=True, database=None)
@given(st.one_of(st.text(), st.lists(PIECES | st.text(max_size=2)).map("".join)))
@example("\\boxed{2 * y ≡ 1 (mod 7)}")
def test_judges_are_total_on_any_text(text):
    judge_everything(text)
    judge_everything(box(text))


def test_judges_are_total_on_ten_thousand_random_byte_strings():
    rng, seen = Random(0), set()
    for _ in range(10_000):
        noise = rng.randbytes(rng.randrange(40)).decode("latin-1")
        seen |= {*judge_everything(noise), *judge_everything(box(noise))}
    assert WRONG in seen  # so that some noise came through the parser to the arithmetic


MEGABYTE = 2**20
ONE_BOX = box("4")
HOSTILE = {  # each text with the verdicts of the solver on `2 * y ≡ 1 (mod 7)`, whose answer is 4
    "5000 digits": (box("4" * 5000), MALFORMED),
    "5000 zeros, then 4": (box("0" * 5000 + "4"), MALFORMED),
    "ten digits": (box("4" + "0" * 9), MALFORMED),
    "Arabic-Indic digit": (box("٤"), MALFORMED),
    "Devanagari digit": (box("४"), MALFORMED),
    "fullwidth digit": (box("４"), MALFORMED),
    "superscript": (box("⁴"), MALFORMED),
    "nested": (box(ONE_BOX), CORRECT),  # the last box decides
    "nested, outer text": (r"\boxed{1 \boxed{4} 1}", CORRECT),
    "nested braces": (box("{4}"), MALFORMED),
    "unclosed": (r"\boxed{4", MALFORMED),
    "closed, then unclosed": (ONE_BOX + r"\boxed{4", MALFORMED),
    "thousands of boxes": (box("1") * 9_000 + ONE_BOX, CORRECT),
    "thousands of open boxes": (r"\boxed{" * 14_000, MALFORMED),
    "thousands of open boxes, one closed": (r"\boxed{" * 14_000 + "4}", CORRECT),
    "thousands of braces": (r"\boxed{4" + "{" * 40_000 + "}" * 40_000, MALFORMED),
    "a megabyte before": (" " * MEGABYTE + ONE_BOX, MALFORMED),
    "a megabyte after": (ONE_BOX + "4" * MEGABYTE, MALFORMED),
    "a megabyte of minus signs": (box("-" * MEGABYTE), MALFORMED),
    "many spaces around": (box(" " * 40_000 + "4" + " " * 40_000), CORRECT),
    "many spaces, no end": (box(" " * 90_000 + "!"), MALFORMED),
    "many spaces, no number": (box("x" + " " * 45_000 + "=" + " " * 45_000), MALFORMED),
    "many digits and spaces": (box("4 " * 45_000), MALFORMED),
    "lone surrogate inside": (box("4\ud800"), MALFORMED),
    "lone surrogate outside": ("\udfff" + ONE_BOX, CORRECT),
    "null byte inside": (box("4\0"), MALFORMED),
    "control characters outside": ("\0\x07\x1b[2J" + ONE_BOX + "\x7f", CORRECT),
    "vertical tab": (box("\x0b4"), MALFORMED),
    "right-to-left override": (box("\u202e4"), MALFORMED),
    "chat markup": ("<|im_end|>\n<|im_start|>assistant\n" + ONE_BOX, CORRECT),
    "chat markup inside": (box("4<|im_end|>"), MALFORMED),
    "code": (box("__import__('os').getpid()"), MALFORMED),
    "code that is right": (box("2+2"), MALFORMED),
    "template": (box("$content"), MALFORMED),
    "format field": (box("{0}"), MALFORMED),
    "none": ("", MALFORMED),
}


@pytest.mark.parametrize("name", HOSTILE)
def test_hostile_text_gets_its_verdict(name):
    """That it gets it after reading the text once is shown in `tests/test_patterns.py`: a pattern that
    goes back would be at some of these for minutes."""
    text, expected = HOSTILE[name]
    verdicts = judge_everything(text)
    assert verdicts[2] is judge_solver(text, Problem(DEDUCTION, 2, 4, 7), *SPAN) is expected
    assert not {INVALID, VALID} & set(verdicts)  # and none of them is a proposal


@pytest.mark.parametrize("gap", [" ", "\n", "\t "])
def test_a_proposal_with_long_gaps_is_judged(gap):
    wide = gap * 4_000
    for end, expected in ((")", VALID), ("!", MALFORMED)):
        text = box(wide.join(["", "2", "*", "y", "≡", "1", "(", "mod", "7", end, ""]))
        assert judge_proposer(text, DEDUCTION, *SPAN)[0] is expected


def test_huge_but_readable_numbers_are_judged_not_refused():
    for first, second in (
        (999_999_999, 999_999_999),
        (-999_999_999, 7),
        (2, 999_999_937),
    ):  # the last: a prime
        for task in TASKS:
            text = box(FORM[task].format(first, second))
            assert judge_proposer(text, task, 5, 617) == (INVALID, None)
    assert judge_solver(box(999_999_999), Problem(DEDUCTION, 2, 4, 7), 5, 617) is WRONG


# ---------------------------------------------------------------- rollouts


def rollout(role: Role, task: TaskType, text: str, finished: bool) -> Rollout:
    return Rollout(role, task, Problem(task, 2, 4, 7), (1, 2), (3, 4), (-0.5, -0.5), text, finished)


@pytest.mark.parametrize("task", TASKS)
def test_an_unfinished_rollout_is_malformed_whatever_it_says(task):
    answer = box({ABDUCTION: 2, DEDUCTION: 4, INDUCTION: 7}[task])
    given_numbers = {ABDUCTION: (3, 5), DEDUCTION: (2, 5), INDUCTION: (2, 3)}[task]
    proposal = box(FORM[task].format(*given_numbers))
    for role, text, said in (
        (Role.SOLVER, answer, (CORRECT, None)),
        (Role.PROPOSER, proposal, (VALID, Problem(task, 2, 3, 5))),
    ):
        ended, cut = (rollout(role, task, text, finished=ended) for ended in (True, False))
        assert judge_rollout(ended, *SPAN) == Judged(ended, *said)
        assert judge_rollout(cut, *SPAN) == Judged(cut, MALFORMED, None)
