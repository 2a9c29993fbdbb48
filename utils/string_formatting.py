r"""Text in and out: `Problem` -> prompt, response -> parsed value. Knows nothing of right or wrong.

Prompts are built from integers only, never from text a model wrote. The parsers are total: any
string gives a value or None. Both read the last `\boxed{` of a response, closed or not. Example:
`parse_solver(r"so \boxed{4}") == 4`,
`parse_proposer(r"\boxed{2 * y = 1 (mod 7)}", TaskType.DEDUCTION) == Equation(2, None, 7)`.
"""

import re
from collections.abc import Mapping, Sequence
from datetime import date
from functools import lru_cache
from itertools import cycle
from string import Template
from typing import Any

from constants import MAXIMUM_DIGITS, MAXIMUM_RESPONSE_CHARACTERS
from custom_types import Equation, Policy, Problem, Prompt, PromptSet, Response, Role, TaskType
from prime_inversion import primes_between
from prompts import ANSWER, EQUATION, TURN
from utils.template_clock import standing_clock

REMEMBERED_TEXTS = 2048
REMEMBERED_PROMPTS = 8192  # of each role

_BOX = "\\boxed{"
_SPACE = r"[ \t\r\n]*"
_INTEGER = rf"-?[0-9]{{1,{MAXIMUM_DIGITS}}}"
_ANSWER = re.compile(rf"{_SPACE}(?:[xyp]{_SPACE}={_SPACE})?({_INTEGER}){_SPACE}")


def _equation_pattern(task: TaskType) -> re.Pattern:
    x, y, p = (task.asked if letter == task.asked else rf"({_INTEGER})" for letter in "xyp")
    parts = (x, r"\*", y, "[≡=]", "1", r"\(", "mod", p, r"\)")
    return re.compile(_SPACE + _SPACE.join(parts) + _SPACE)


_PROPOSAL = {task: _equation_pattern(task) for task in TaskType}


def _last_box(text: str) -> str | None:
    """What stands between the last `\\boxed{` and the next `}`; None if there is no such pair."""
    start = text.rfind(_BOX)
    end = text.find("}", start)
    if len(text) > MAXIMUM_RESPONSE_CHARACTERS or start < 0 or end < 0:
        return None
    return text[start + len(_BOX) : end]


# Short answers repeat: without the cache tiny's step takes 2.4 ms of 260 longer.
@lru_cache(maxsize=REMEMBERED_TEXTS)
def parse_solver(text: str) -> int | None:
    """The integer a solver answers, or None if the response is malformed.

    Accepts spaces around the number and a leading `x =`, `y =` or `p =`; a plain leading minus is
    well formed. More than nine digits, other scripts' digits and anything else are malformed.
    """
    content = _last_box(text)
    match = _ANSWER.fullmatch(content) if content is not None else None
    return int(match[1]) if match else None


def parse_proposer(text: str, task: TaskType) -> Equation | None:
    """The equation a proposer writes for `task`, its asked letter None; None if malformed."""
    content = _last_box(text)
    match = _PROPOSAL[task].fullmatch(content) if content is not None else None
    if match is None:
        return None
    given = (letter for letter in "xyp" if letter != task.asked)
    numbers = dict(zip(given, map(int, match.groups()), strict=True))
    return Equation(numbers.get("x"), numbers.get("y"), numbers.get("p"))


def format_equation(problem: Problem) -> str:
    """The problem as both roles see it, its asked letter unknown: `2 * y ≡ 1 (mod 7)`."""
    return equation_of(problem.task, problem.x, problem.y, problem.p)


def equation_of(task: TaskType, x: int, y: int, p: int) -> str:
    """The equation of a task with any numbers, whether there is such a problem or not; that of the
    asked letter is not used."""
    return Template(EQUATION[task]).substitute(x=x, y=y, p=p)


def format_answer(content: object) -> str:
    r"""How a response ends: `\boxed{content}`."""
    return Template(ANSWER).substitute(content=content)


def decode(tokenizer: Any, responses: Sequence[Response]) -> list[str]:
    """The text of each response without its stop id. A model may sample ids that its tokenizer has no word
    for; a response with such an id becomes U+FFFD as a whole, so that it cannot be read."""
    known = len(tokenizer)
    bodies = [response.ids[: len(response.ids) - response.finished] for response in responses]
    distinct = list(dict.fromkeys(bodies))  # short answers repeat
    texts = tokenizer.batch_decode(
        distinct, skip_special_tokens=False, clean_up_tokenization_spaces=False
    )
    text_of = {
        body: text if all(token < known for token in body) else "\ufffd"
        for text, body in zip(texts, distinct, strict=True)
    }
    return [text_of[body] for body in bodies]


def worked_examples(asked: Problem, n: int, min_prime: int, max_prime: int) -> list[Problem]:
    """The `n` worked examples in the prompt of `asked`: legal, of its task, and no help with it.

    They are the same for every problem of a range, so that they tell nothing of its answer. Only where
    one would be the asked equation itself, or its mirror image, another takes its place:
    (p-1) * (p-1) = p * (p-2) + 1. Their primes divide the range into n + 1 equal stretches, and their
    x are 2, 5, 8 and so on.
    """
    primes = primes_between(min_prime, max_prime)
    examples = []
    for k in range(n):
        p = primes[(k + 1) * len(primes) // (n + 1)]
        x = 2 + 3 * k % (p - 2)
        y = pow(x, -1, p)
        if asked.p == p and {asked.x, asked.y} == {x, y}:
            x = y = p - 1
        examples.append(Problem(asked.task, x, y, p))
    return examples


def chat_messages(text: str) -> list[dict[str, str]]:
    """The turns of a prompt, as chat templates and chat clients take them: the user's first."""
    return [
        {"role": role, "content": turn}
        for role, turn in zip(cycle(("user", "assistant")), text.split(TURN), strict=False)
    ]


class PromptWriter:
    """Writes the texts of prompts in one language, for one range of primes; needs no tokenizer."""

    def __init__(
        self, prompts: PromptSet, min_prime: int, max_prime: int, max_tokens: Mapping[Role, int]
    ) -> None:
        self.prompts = prompts
        self.numbers = dict(min_prime=min_prime, max_prime=max_prime)
        self.max_tokens = dict(max_tokens)

    def solver_text(self, problem: Problem) -> str:
        """The question to the solver."""
        language = self.prompts
        examples = worked_examples(problem, language.examples, **self.numbers)
        return Template(language.solver[problem.task]).substitute(
            self.numbers,
            max_tokens=self.max_tokens[Role.SOLVER],
            equation=format_equation(problem),
            letter=problem.task.asked,
            p_less_1=problem.p - 1,
            examples=language.example_separator.join(
                Template(language.example).substitute(
                    equation=format_equation(example), answer=format_answer(example.solution)
                )
                for example in examples
            ),
        )

    def proposer_text(self, task: TaskType, references: Sequence[Problem]) -> str:
        """The request for a new problem, showing at least one reference of the same task."""
        language = self.prompts
        first = worked_examples(references[0], language.first_references, **self.numbers)
        shown = [*first, *references]
        proposals = [format_answer(format_equation(problem)) for problem in shown]
        return Template(language.proposer[task]).substitute(
            self.numbers,
            max_tokens=self.max_tokens[Role.PROPOSER],
            references=language.reference_separator.join(
                Template(language.reference).substitute(
                    equation=format_equation(problem), proposal=proposal
                )
                for problem, proposal in zip(shown, proposals, strict=True)
            ),
            letter=task.asked,
            example=proposals[0],
        )


class PromptRenderer(PromptWriter):
    """Writes prompts in one language for one tokenizer and one range of primes.

    Training, evaluation and the warm start all use this. A tokenizer with a chat template gets the
    text as turns of a conversation; one without gets it as it is. prompt_date: the day, YYYY-MM-DD,
    that a template's clock shows, at midnight; today by default.
    """

    def __init__(
        self,
        prompts: PromptSet,
        tokenizer: Any,
        min_prime: int,
        max_prime: int,
        max_tokens: Mapping[Role, int],
        prompt_date: str | None = None,
    ) -> None:
        super().__init__(prompts, min_prime, max_prime, max_tokens)
        self.tokenizer = tokenizer
        day = date.today() if prompt_date is None else date.fromisoformat(prompt_date)
        self.clock = standing_clock(tokenizer.chat_template, day)

    @classmethod
    def for_policy(cls, policy: Policy, args: Any) -> "PromptRenderer":
        """The renderer of a policy's language and of the primes and lengths in an `AZRArgs`."""
        return cls.for_run(policy.prompts, policy.tokenizer, args)

    @classmethod
    def for_run(cls, prompts: PromptSet, tokenizer: Any, args: Any) -> "PromptRenderer":
        """The renderer of a language, and of the primes and lengths in an `AZRArgs`."""
        return cls(
            prompts,
            tokenizer,
            args.min_prime,
            args.max_prime,
            {Role.PROPOSER: args.max_proposal_tokens, Role.SOLVER: args.max_answer_tokens},
            args.prompt_date,
        )

    # Each problem is attempted many times: without the cache tiny's step takes 330 ms, not 260.
    @lru_cache(maxsize=REMEMBERED_PROMPTS)  # noqa: B019 (a run has one renderer, to its end)
    def solver(self, problem: Problem) -> Prompt:
        """The question to the solver."""
        return self._prompt(Role.SOLVER, problem, self.solver_text(problem))

    def proposer(self, task: TaskType, references: Sequence[Problem]) -> Prompt:
        """The request for a new problem, showing at least one reference of the same task."""
        return self._request(task, tuple(references))

    # With one reference requests repeat: without the cache tiny's step takes 270 ms, not 260.
    @lru_cache(maxsize=REMEMBERED_PROMPTS)  # noqa: B019 (a run has one renderer, to its end)
    def _request(self, task: TaskType, references: tuple[Problem, ...]) -> Prompt:
        return self._prompt(Role.PROPOSER, references[0], self.proposer_text(task, references))

    def _prompt(self, role: Role, problem: Problem, text: str) -> Prompt:
        return Prompt(role, problem.task, problem, text, self.encode(text), self.max_tokens[role])

    def encode(self, text: str) -> tuple[int, ...]:
        """Token ids of a prompt, up to where the policy's own words begin."""
        if self.tokenizer.chat_template is None:
            return tuple(self.tokenizer(text)["input_ids"])
        encoded = self.tokenizer.apply_chat_template(
            chat_messages(text), add_generation_prompt=True, return_dict=True, **self.clock
        )
        return tuple(encoded["input_ids"])
