r"""A person's words in; a problem, and what a policy makes of it, out.

    problem = read_problem("2 * y = 1 (mod 7)", 5, 31)
    print(answer(load_evaluator("runs/first"), problem))

prints

    asked        2 * y ≡ 1 (mod 7)
    answer       \boxed{4}
    verdict      correct
    right        y = 4
    probability  0.973 of this answer; of \boxed{4} 0.973

Answers and proposals are rendered, parsed and judged as in training. A probability is the product of
those of a response's tokens, its end among them, at the temperature of the run.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass, field

from custom_types import TASKS, Judged, Problem, TaskType
from model.eval.evaluator import Evaluator
from model.flags import shown
from prime_inversion import fitting_primes
from prompts import COMPACT, DIALOGUE
from utils.string_formatting import format_answer, format_equation, parse_proposer
from utils.validate_by_executing import complete

# In these languages an answer is its box and nothing else, so that the box's probability is the answer's.
AT_ONCE = COMPACT, DIALOGUE
WIDTH = 13  # of the titles
FORMS = "x * 4 ≡ 1 (mod 7), 2 * y ≡ 1 (mod 7) or 2 * 4 ≡ 1 (mod p)"


class ProblemError(ValueError):
    """What is no problem; the message is one sentence for the user."""


def read_problem(line: str, min_prime: int, max_prime: int) -> Problem:
    r"""The problem that a line of text is, in any form that a proposer may write it in, in a `\boxed{}`
    or without. Raises ProblemError."""
    text = line if r"\boxed" in line else format_answer(line)
    for task in TASKS:
        equation = parse_proposer(text, task)
        if equation is None:
            continue
        problem = complete(equation, task, min_prime, max_prime)
        if problem is None:
            raise ProblemError(f"{shown(line)}: {_rule(task, min_prime, max_prime)}")
        return problem
    raise ProblemError(f"{shown(line)}: must be a problem as {FORMS}")


def _rule(task: TaskType, min_prime: int, max_prime: int) -> str:
    """What makes an equation a problem of a task, as the end of a sentence."""
    primes = f"a prime from {min_prime} to {max_prime}"
    if task is TaskType.INDUCTION:
        return f"must have {primes} that fits and is larger than both numbers, which are not both 1"
    return f"must have for p {primes}, and a number from 1 to p - 1"


def right_answers(problem: Problem, min_prime: int, max_prime: int) -> tuple[int, ...]:
    """All that are accepted, ascending."""
    if problem.task is TaskType.INDUCTION:
        return fitting_primes(problem.x, problem.y, min_prime, max_prime)
    return (problem.solution,)


@dataclass(frozen=True)
class Answer:
    """A policy's answer to a problem. right: what is accepted. probability: of its text. of_right: the
    probabilities of the right answers by their texts; none where the policy does not answer at once."""

    problem: Problem
    judged: Judged
    right: Sequence[int]
    probability: float
    of_right: dict[str, float] = field(default_factory=dict)

    def __str__(self) -> str:
        letter = self.problem.task.asked
        others = [f"{text} {_share(value)}" for text, value in self.of_right.items()]
        return _table(
            asked=format_equation(self.problem),
            answer=self.judged.rollout.text,
            verdict=_verdict(self.judged),
            right=f"{letter} = {' or '.join(map(str, self.right))}",
            probability="; of ".join([f"{_share(self.probability)} of this answer", *others]),
        )


@dataclass(frozen=True)
class Proposal:
    """A policy's proposal. right: what answers it, nothing where it is no problem. probability: of its
    text."""

    judged: Judged
    right: Sequence[int]
    probability: float

    def __str__(self) -> str:
        problem, task = self.judged.proposed, self.judged.rollout.task
        found = {}
        if problem is not None:
            found["problem"] = format_equation(problem)
            found["right"] = f"{task.asked} = {' or '.join(map(str, self.right))}"
        return _table(
            asked=f"a problem of {task}, in which {task.asked} is asked",
            proposal=self.judged.rollout.text,
            verdict=_verdict(self.judged),
            **found,
            probability=f"{_share(self.probability)} of this proposal",
        )


def answer(evaluator: Evaluator, problem: Problem, *, temperature: float = 0.0) -> Answer:
    """One answer to a problem, greedy by default."""
    span = evaluator.args.min_prime, evaluator.args.max_prime
    (rollout,) = evaluator.solve([problem], temperature=temperature)
    right = right_answers(problem, *span)
    at_once = evaluator.policy.prompts in AT_ONCE
    texts = [format_answer(number) for number in right] if at_once else []
    written = [evaluator.written(problem, text) for text in texts]
    own, *of_right = map(math.exp, evaluator.logprobs([rollout, *written]))
    judged = evaluator.judge(rollout)
    return Answer(problem, judged, right, own, dict(zip(texts, of_right, strict=True)))


def propose(evaluator: Evaluator, task: TaskType, *, temperature: float | None = None) -> Proposal:
    """One proposal, sampled at the temperature of the run by default."""
    rollout = evaluator.propose(task, temperature=temperature)
    judged = evaluator.judge(rollout)
    (logprob,) = evaluator.logprobs([rollout])
    span = evaluator.args.min_prime, evaluator.args.max_prime
    right = right_answers(judged.proposed, *span) if judged.proposed else ()
    return Proposal(judged, right, math.exp(logprob))


def printable(text: str) -> str:
    """A text that a model wrote, as a terminal may show it: nothing in it moves the cursor or changes
    colours."""
    return "".join(
        letter if letter.isprintable() or letter == "\n" else ascii(letter)[1:-1] for letter in text
    )


def _verdict(judged: Judged) -> str:
    if judged.rollout.finished:
        return str(judged.verdict)
    return f"{judged.verdict}, as it had not ended after {len(judged.rollout.response_ids)} tokens"


def _share(value: float) -> str:
    return f"{value:.3g}"


def _table(**rows: str) -> str:
    """A line for each title, and further lines of a text below its first."""
    indent = "\n" + " " * WIDTH
    return "\n".join(
        f"{title:<{WIDTH}}{printable(text).replace(chr(10), indent)}".rstrip()
        for title, text in rows.items()
    )
