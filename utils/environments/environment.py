r"""The environment of training, for other trainers: its problems, prompts, verdicts and rewards.

Everything is an import of what training itself uses; nothing of `model/` is, and torch is not needed.
Each adapter beside this file says the same in the words of one library. Example: the answer
`\boxed{4}` to `2 * y ≡ 1 (mod 7)` earns

    environment = Environment(max_prime=13)
    problem = Problem(TaskType.DEDUCTION, 2, 4, 7)
    answer_reward(environment.judge_answer(r"\boxed{4}", problem)) == 1.0
"""

from collections.abc import Sequence
from dataclasses import dataclass
from numbers import Integral, Real
from random import Random

from compute.reward import compute_r_total, solve_rate_of
from constants import CHAT_TOKENS, DEFAULT_MAX_PRIME, MAXIMUM_PRIME, MINIMUM_PRIME
from custom_types import TASKS, Problem, Role, TaskType, Verdict
from prime_inversion import (
    evaluated_problems,
    generate_problems,
    primes_between,
    trained_problems,
)
from prompts import CHAT, PROMPT_SETS
from utils.string_formatting import PromptWriter
from utils.validate_by_executing import judge_proposer, judge_solver, judged_text


@dataclass(frozen=True)
class Environment:
    """A range of primes, the share of its problems that is never trained on, a prompt language and how
    long a response may be. Raises ValueError for what is no such number, for a range or a share that
    leaves a task no problems, and for an unknown language."""

    min_prime: int = MINIMUM_PRIME
    max_prime: int = DEFAULT_MAX_PRIME
    held_out: float = 0.0
    language: str = CHAT.name
    max_answer_tokens: int = CHAT_TOKENS
    max_proposal_tokens: int = CHAT_TOKENS

    def __post_init__(self) -> None:
        require_integers(self, "min_prime", "max_prime")
        require_integers(self, "max_answer_tokens", "max_proposal_tokens", least=1)
        low, high = self.span
        if not (MINIMUM_PRIME <= low and high <= MAXIMUM_PRIME and primes_between(low, high)):
            raise ValueError(
                f"min_prime {low}, max_prime {high}: must lie in {MINIMUM_PRIME}..{MAXIMUM_PRIME} "
                f"and have a prime between them"
            )
        if self.language not in PROMPT_SETS:
            raise ValueError(
                f"language must be one of {', '.join(PROMPT_SETS)}, not {self.language}"
            )
        share, kinds = self.held_out, (trained_problems, evaluated_problems)
        if (
            not isinstance(share, Real)
            or not 0 <= share < 1
            or not all(kind(t, low, high, share) for kind in kinds for t in TASKS)
        ):
            raise ValueError(
                f"held_out {share!r}: must be a share, at least 0 and less than 1, that holds out some "
                f"problems of each task from {low} to {high} and leaves some; or 0"
            )

    @property
    def span(self) -> tuple[int, int]:
        return self.min_prime, self.max_prime

    def draw(self, n: int, rng: Random, tasks: tuple[TaskType, ...] = TASKS) -> list[Problem]:
        """`n` problems that may be trained on, with replacement: each time a task, then a problem."""
        return generate_problems(n, rng, *self.span, tasks=tasks, held_out=self.held_out)

    def trained(self) -> list[Problem]:
        """Every problem that may be trained on, by task."""
        return [item for t in TASKS for item in trained_problems(t, *self.span, self.held_out)]

    def evaluated(self) -> list[Problem]:
        """Every problem that accuracy is measured on, by task: those held out, or all where none are."""
        return [item for t in TASKS for item in evaluated_problems(t, *self.span, self.held_out)]

    def solver_text(self, problem: Problem) -> str:
        """The question to the solver. `chat_messages` makes it turns of a conversation."""
        return self._writer.solver_text(problem)

    def proposer_text(self, task: str, references: Sequence[Problem]) -> str:
        """The request for a new problem of a task, by name, showing at least one known problem of it."""
        return self._writer.proposer_text(TaskType(task), references)

    @property
    def _writer(self) -> PromptWriter:
        limits = {Role.SOLVER: self.max_answer_tokens, Role.PROPOSER: self.max_proposal_tokens}
        return PromptWriter(PROMPT_SETS[self.language], *self.span, limits)

    def judge_answer(self, text: str, problem: Problem, finished: bool = True) -> Verdict:
        """MALFORMED, WRONG or CORRECT. finished: whether the response ended within its limit."""
        return judge_solver(judged_text(text, finished), problem, *self.span)

    def judge_proposal(
        self, text: str, task: str, finished: bool = True
    ) -> tuple[Verdict, Problem | None]:
        """MALFORMED, INVALID or VALID for a task, by name, and with VALID the problem."""
        return judge_proposer(judged_text(text, finished), TaskType(task), *self.span)


def require_integers(holder: object, *names: str, least: int | None = None) -> None:
    """Raise ValueError for an attribute that is no integer, or is smaller than `least`."""
    for name in names:
        value = getattr(holder, name)
        if (
            not isinstance(value, Integral)
            or isinstance(value, bool)
            or (least is not None and value < least)
        ):
            bound = "" if least is None else f" of at least {least}"
            raise ValueError(f"{name} {value!r}: must be an integer{bound}")


def problem_of(task: str, x: int, y: int, p: int) -> Problem:
    """The problem with the numbers of a row. Raises ValueError if there is none."""
    return Problem(TaskType(task), x, y, p)


def answer_reward(verdict: Verdict) -> float:
    """1 for a correct answer, -0.5 for a wrong one, -1 for a malformed one."""
    return compute_r_total(Role.SOLVER, verdict)


def proposal_reward(verdict: Verdict, attempts: Sequence[Verdict] = ()) -> float:
    """-1 for a malformed proposal, -0.5 for an invalid one, and for a valid one its learnability by the
    verdicts on the attempts at it. Raises ValueError for a valid one without attempts."""
    return compute_r_total(Role.PROPOSER, verdict, solve_rate_of(attempts) if attempts else None)
