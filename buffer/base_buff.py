"""What a run remembers: the problems accepted so far, and this step's rollouts.

`ProblemBuffer` holds unique `Problem`s by task and draws references and refills with a generator of
its own. `ReplayBuffer` holds one step's rollouts with their advantages, equal ones once, and hands them
out as shuffled minibatches; `collate` is the one place where rows are padded.
"""

from collections.abc import Iterator, Sequence
from dataclasses import replace
from random import Random

import torch

from custom_types import TASKS, Example, MiniBatch, Problem, Rollout, TaskType

RATE_MEMORY = 0.9  # weight of what was known when one more answer to a problem comes in
LEAST_WEIGHT = 0.02  # of a problem that is always solved, beside 1 of one that never is


class ProblemBuffer:
    """Unique problems by task, in the order they came; unbounded. Draws with its own generator.

    Beside each problem stands a running mean of how often it is answered correctly, 0 at first, by
    which `sample_unsolved` weighs.
    """

    def __init__(self, seed: int | str):
        self._rng = Random(f"{seed}/problem buffer")
        self._problems: dict[TaskType, dict[Problem, float]] = {task: {} for task in TASKS}

    def __len__(self) -> int:
        return sum(len(problems) for problems in self._problems.values())

    def __contains__(self, problem: Problem) -> bool:
        return problem in self._problems[problem.task]

    def problems(self, task: TaskType) -> tuple[Problem, ...]:
        """Every problem of a task, oldest first."""
        return tuple(self._problems[task])

    def add(self, problem: Problem) -> bool:
        """Keep a problem; False if it was known already."""
        if problem in self:
            return False
        self._problems[problem.task][problem] = 0.0
        return True

    def add_triple(self, problem: Problem) -> None:
        """Keep what the other tasks ask about the same x, y and p."""
        for task in TASKS:
            if not (task is TaskType.INDUCTION and problem.x == problem.y == 1):
                self.add(replace(problem, task=task))

    def record(self, problem: Problem, correct: bool) -> None:
        """Take in one answer to a known problem."""
        rates = self._problems[problem.task]
        rates[problem] = RATE_MEMORY * rates[problem] + (1 - RATE_MEMORY) * correct

    def sample_unsolved(self, task: TaskType, n: int) -> list[Problem]:
        """`n` problems of a task with replacement, weighted by how seldom they are solved now."""
        rates = self._problems[task]
        if n and not rates:
            raise ValueError(f"no {task} problem to draw from")
        weights = [1 - rate + LEAST_WEIGHT for rate in rates.values()]
        return self._rng.choices(tuple(rates), weights, k=n) if n else []

    def seed(self, problems: Sequence[Problem], per_task: int) -> None:
        """Fill each task with `per_task` of `problems`, drawn uniformly without replacement."""
        for task in TASKS:
            own = [problem for problem in problems if problem.task is task]
            for problem in self._rng.sample(own, min(per_task, len(own))):
                self.add(problem)

    def sample(self, task: TaskType, n: int) -> list[Problem]:
        """`n` problems of a task, uniformly, without replacement for as long as there are any:
        where n exceeds the buffer, every problem comes once before one comes again."""
        problems = self.problems(task)
        if n and not problems:
            raise ValueError(f"no {task} problem to draw from")
        drawn: list[Problem] = []
        while len(drawn) < n:
            drawn += self._rng.sample(problems, min(n - len(drawn), len(problems)))
        return drawn

    def state_dict(self) -> dict:
        """Problems and generator, in JSON's types."""
        version, words, gauss = self._rng.getstate()
        return {
            "problems": [
                [str(task), p.x, p.y, p.p, rate]
                for task in TASKS
                for p, rate in self._problems[task].items()
            ],
            "rng": [version, list(words), gauss],
        }

    def load_state_dict(self, state: dict) -> None:
        """Become the buffer that `state` was taken from."""
        self._problems = {task: {} for task in TASKS}
        for task, x, y, p, rate in state["problems"]:
            self._problems[TaskType(task)][Problem(TaskType(task), x, y, p)] = rate
        version, words, gauss = state["rng"]
        self._rng.setstate((version, tuple(words), gauss))


def collate(examples: Sequence[Example], pad_id: int) -> MiniBatch:
    """Pad examples to rows `[prompt][response][right pad]`.

    The response mask is built from lengths: a sampled end or pad token is a token like any other.
    Example: prompt 7 8 and response 9 2 beside a row of length 3 become ids `7 8 9 2` with mask
    `0 0 1 1`, and `. . . p` with a pad. Raises ValueError where a length does not fit.
    """
    rows = [example.rollout for example in examples]
    for row in rows:
        if (
            not row.prompt_ids
            or not row.response_ids
            or len(row.response_ids) != len(row.old_logprobs)
        ):
            raise ValueError(
                f"a row needs a prompt, a response and as many logprobs as response ids: "
                f"{len(row.prompt_ids)}, {len(row.response_ids)}, {len(row.old_logprobs)}"
            )
    prompts = torch.tensor([len(row.prompt_ids) for row in rows])[:, None]
    lengths = prompts + torch.tensor([len(row.response_ids) for row in rows])[:, None]
    width = int(lengths.max())
    positions = torch.arange(width)[None]

    def padded(values: list[Sequence], fill, dtype) -> torch.Tensor:
        return torch.tensor(
            [[*value, *[fill] * (width - len(value))] for value in values], dtype=dtype
        )

    return MiniBatch(
        input_ids=padded([row.prompt_ids + row.response_ids for row in rows], pad_id, torch.long),
        attention_mask=positions < lengths,
        response_mask=(positions >= prompts) & (positions < lengths),
        old_logprobs=padded(
            [(0.0,) * len(row.prompt_ids) + row.old_logprobs for row in rows], 0.0, torch.float32
        ),
        advantages=torch.tensor([example.advantage for example in examples]),
        weights=torch.tensor([example.weight for example in examples]),
        cells=torch.tensor([row.cell for row in rows]),
    )


def response_count(examples: Sequence[Example], aggregate: str) -> float:
    """The objective's denominator over `examples`: responses, or their tokens, by weight."""
    if aggregate == "sequence":
        return sum(example.weight for example in examples)
    return sum(example.weight * len(example.rollout.response_ids) for example in examples)


class ReplayBuffer:
    """One step's rollouts as examples; emptied by making a new one.

    Rollouts with the same prompt, response and advantage have the same gradient, so they become one
    example that weighs as much as all of them: sampling finds the same short answer many times.
    weights: what each rollout counts before that, 1 by default.
    """

    def __init__(
        self,
        rollouts: Sequence[Rollout],
        advantages: Sequence[float],
        weights: Sequence[float] | None = None,
    ):
        weights = [1.0] * len(rollouts) if weights is None else weights
        merged: dict[tuple, list] = {}
        for rollout, advantage, weight in zip(rollouts, advantages, weights, strict=True):
            key = rollout.prompt_ids, rollout.response_ids, advantage
            merged.setdefault(key, [rollout, advantage, 0.0])[2] += weight
        self.examples = [Example(*values) for values in merged.values()]

    def __len__(self) -> int:
        return len(self.examples)

    def minibatches(self, n: int, rng: Random) -> list[list[Example]]:
        """All examples in `n` shuffled parts of nearly equal size, each once, none empty."""
        examples = rng.sample(self.examples, len(self.examples))
        n = min(n, len(examples))
        return [examples[part::n] for part in range(n)]


def microbatches(examples: Sequence[Example], max_tokens: int) -> Iterator[list[Example]]:
    """`examples` in parts that `collate` pads to at most `max_tokens` positions each, or of one row.

    Sorted by length, so that little is padding. How they are split does not change the update, as
    long as every part is given the denominator of the whole.
    """

    def length(example: Example) -> int:
        return len(example.rollout.prompt_ids) + len(example.rollout.response_ids)

    part: list[Example] = []
    for example in sorted(examples, key=length):
        if part and length(example) * (len(part) + 1) > max_tokens:
            yield part
            part = []
        part.append(example)
    if part:
        yield part
