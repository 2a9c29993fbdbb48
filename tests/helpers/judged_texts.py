"""Ten thousand texts, right, wrong, malformed and hostile, with what the verifier of training says of each
and the rewards of the method, written out: what every adapter of the environment must agree with."""

from collections import Counter
from random import Random

from custom_types import TASKS, Problem, TaskType, Verdict
from helpers.hostile_text import LEGAL, ONE_OF_EACH, SPAN, hostile_text
from utils.string_formatting import format_answer
from utils.validate_by_executing import judge_proposer, judge_solver

N = 10_000
PAID = {Verdict.CORRECT: 1.0, Verdict.WRONG: -0.5, Verdict.MALFORMED: -1.0}
REFUSED = {Verdict.MALFORMED: -1.0, Verdict.INVALID: -0.5}
LEARNABILITY = [0.0, 0.75, 0.5, 0.25, 0.0]  # of 0 to 4 attempts of 4 that are correct


def sendable(text: str) -> str:
    """The text as it is after a request, which has no lone surrogates."""
    return text.encode("utf-8", "replace").decode()


def judged_answers(n: int = N) -> list[tuple[str, Problem, float]]:
    """Texts, each as an answer to a problem of range `SPAN`, with its reward."""
    rng, found, seen = Random("answers"), [], Counter()
    for number in range(n):
        text, problem = sendable(hostile_text(rng)), ONE_OF_EACH[number % len(TASKS)]
        verdict = judge_solver(text, problem, *SPAN)
        seen[verdict] += 1
        found.append((text, problem, PAID[verdict]))
    assert all(seen[verdict] > n // 100 for verdict in PAID), seen
    return found


def judged_proposals(n: int = N) -> list[tuple[str, TaskType, list[str], float]]:
    """Texts, each as a proposal for a task, with 4 attempts at its problem where it has one, and its
    reward."""
    rng, found, seen = Random("proposals"), [], Counter()
    for number in range(n):
        task = TASKS[number % len(TASKS)]
        legal = rng.random() < 0.2  # of the hostile texts few are
        text = (
            format_answer(rng.choice(list(LEGAL[task]))) if legal else sendable(hostile_text(rng))
        )
        verdict, problem = judge_proposer(text, task, *SPAN)
        attempts = []
        if problem:
            right = format_answer(problem.solution)
            attempts = [rng.choice([right, sendable(hostile_text(rng))]) for _ in range(4)]
            solved = sum(judge_solver(a, problem, *SPAN) is Verdict.CORRECT for a in attempts)
            seen[solved] += 1
        seen[verdict] += 1
        found.append((text, task, attempts, LEARNABILITY[solved] if problem else REFUSED[verdict]))
    assert all(seen[kind] > n // 1000 for kind in (*REFUSED, Verdict.VALID, *range(5))), seen
    return found
