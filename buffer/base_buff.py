"""What a run remembers: the problems accepted so far, and this step's rollouts.

`ProblemBuffer` holds unique `Problem`s by task and draws references and refills with its generator.
`ReplayBuffer` holds one step's rollouts with their advantages, equal ones once, and hands them out as
shuffled minibatches; `collate` is the one place where rows are padded.
"""

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from itertools import chain, pairwise
from random import Random

import torch

from buffer.packing import fill_rows, pack
from custom_types import TASKS, Example, MiniBatch, Problem, Rollout, TaskType
from utils.random_states import random_state, set_random_state

RATE_MEMORY = 0.9  # weight of what was known when one more answer to a problem comes in
LEAST_WEIGHT = 0.02  # of a problem that is always solved, beside 1 of one that never is


@dataclass(slots=True)
class Answers:
    """What is known of the answers to a problem: a running mean of how often they are correct, by which
    `sample_unsolved` weighs, and their number."""

    rate: float = 0.0
    count: int = 0


class ProblemBuffer:
    """Unique problems by task, in the order they came, and what is known of the answers to them;
    unbounded. Draws with a generator that nobody else uses."""

    def __init__(self, seed: int | str):
        self._rng = Random(f"{seed}/problem buffer")
        self._problems: dict[TaskType, dict[Problem, Answers]] = {task: {} for task in TASKS}

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
        self._problems[problem.task][problem] = Answers()
        return True

    def add_triple(self, problem: Problem) -> None:
        """Keep what the other tasks ask about the same x, y and p."""
        for task in TASKS:
            if not (task is TaskType.INDUCTION and problem.x == problem.y == 1):
                self.add(replace(problem, task=task))

    def record(self, problem: Problem, correct: bool) -> None:
        """Take in one answer to a known problem."""
        known = self._problems[problem.task][problem]
        known.rate = RATE_MEMORY * known.rate + (1 - RATE_MEMORY) * correct
        known.count += 1

    def sample_unsolved(self, task: TaskType, n: int) -> list[Problem]:
        """`n` problems of a task with replacement, weighted by how seldom they are solved now."""
        problems = self._problems[task]
        if n and not problems:
            raise ValueError(f"no {task} problem to draw from")
        weights = [1 - known.rate + LEAST_WEIGHT for known in problems.values()]
        return self._rng.choices(tuple(problems), weights, k=n) if n else []

    def seed(self, problems: Sequence[Problem], per_task: int) -> None:
        """Fill each task with `per_task` of `problems`, drawn uniformly without replacement."""
        for task in TASKS:
            of_task = [problem for problem in problems if problem.task is task]
            for problem in self._rng.sample(of_task, min(per_task, len(of_task))):
                self.add(problem)

    def sample(self, task: TaskType, n: int) -> list[Problem]:
        """`n` problems of a task, uniformly, without replacement for as long as there are any:
        where n exceeds the buffer, every problem comes once before one comes twice."""
        problems = self.problems(task)
        if n and not problems:
            raise ValueError(f"no {task} problem to draw from")
        drawn: list[Problem] = []
        while len(drawn) < n:
            drawn += self._rng.sample(problems, min(n - len(drawn), len(problems)))
        return drawn

    def sample_nothing(self, task: TaskType, n: int) -> list[Problem]:
        """No problems, where batches are not filled up."""
        return []

    def state_dict(self) -> dict:
        """Problems and generator, in JSON's types."""
        return {
            "problems": [
                [str(task), p.x, p.y, p.p, known.rate, known.count]
                for task in TASKS
                for p, known in self._problems[task].items()
            ],
            "rng": random_state(self._rng),
        }

    def load_state_dict(self, state: dict) -> None:
        """Become the buffer that `state` was taken from."""
        self._problems = {task: {} for task in TASKS}
        for task, x, y, p, rate, count in state["problems"]:
            problem = Problem(TaskType(task), x, y, p)
            self._problems[problem.task][problem] = Answers(rate, count)
        set_random_state(self._rng, state["rng"])


REFILLS = {  # `--refill` by name
    "uniform": ProblemBuffer.sample,
    "unsolved": ProblemBuffer.sample_unsolved,
    "none": ProblemBuffer.sample_nothing,
}


def collate(rows: Sequence[Sequence[Example]], pad_id: int) -> MiniBatch:
    """Pack examples, each row a prefix tree of prompts and responses, and what they are scored by.

    The response mask is built from lengths: a sampled end or pad token is a token like any other.
    With one example a row nothing is shared. Raises ValueError for an example without a prompt or a
    response, or with another number of logprobs than of response ids.
    """
    packed = pack([[_read(example) for example in row] for row in rows], pad_id)
    examples = [example for row in rows for example in row]
    rollouts = [example.rollout for example in examples]
    lengths = torch.tensor([len(rollout.response_ids) for rollout in rollouts])
    response_mask = torch.arange(int(lengths.max()))[None] < lengths[:, None]

    def by_example(values: Iterable[Sequence]) -> torch.Tensor:
        flat = torch.tensor(list(chain.from_iterable(values)))
        return flat.new_zeros(response_mask.shape).masked_scatter(response_mask, flat)

    return MiniBatch(
        input_ids=packed.input_ids,
        position_ids=packed.position_ids,
        attention_mask=packed.attention_mask,
        targets=by_example(rollout.response_ids for rollout in rollouts),
        sources=by_example(
            path[len(rollout.prompt_ids) - 1 :]
            for rollout, path in zip(rollouts, packed.paths, strict=True)
        ),
        response_mask=response_mask,
        old_logprobs=by_example(rollout.old_logprobs for rollout in rollouts),
        advantages=torch.tensor([example.advantage for example in examples]),
        weights=torch.tensor([example.weight for example in examples]),
        counts=torch.tensor([float(example.count) for example in examples]),
        cells=torch.tensor([rollout.cell for rollout in rollouts]),
    )


def _read(example: Example) -> tuple[int, ...]:
    """What the model reads: the prompt and the response without its last token, after which nothing is
    scored. Raises ValueError for an example that cannot be trained on."""
    rollout = example.rollout
    prompt, response, logprobs = rollout.prompt_ids, rollout.response_ids, rollout.old_logprobs
    if not prompt or not response or len(response) != len(logprobs):
        raise ValueError(
            f"an example needs a prompt, a response and as many logprobs as response ids: "
            f"{len(prompt)}, {len(response)}, {len(logprobs)}"
        )
    return prompt + response[:-1]


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
            same = merged.setdefault(key, [rollout, advantage, 0.0, 0])
            same[2] += weight
            same[3] += 1
        self.examples = [Example(*values) for values in merged.values()]

    def __len__(self) -> int:
        return len(self.examples)

    def count(self, aggregate: str) -> float:
        """What the objective is averaged over: responses, or with "token" their tokens, by weight."""
        if aggregate == "sequence":
            return sum(example.weight for example in self.examples)
        return sum(example.weight * len(example.rollout.response_ids) for example in self.examples)

    def minibatches(self, n: int, rng: Random) -> list[list[Example]]:
        """All examples in `n` shuffled minibatches of nearly equal size, each once, none empty. Examples
        with the same prompt stand together, so that it is computed once, except where a minibatch ends."""
        groups: dict[tuple[int, ...], list[Example]] = {}
        for example in self.examples:
            groups.setdefault(example.rollout.prompt_ids, []).append(example)
        shuffled = rng.sample([*groups.values()], len(groups))
        examples = [example for group in shuffled for example in rng.sample(group, len(group))]
        n = min(n, len(examples))
        ends = [len(examples) * number // max(n, 1) for number in range(n + 1)]
        return [examples[start:end] for start, end in pairwise(ends)]


def microbatches(examples: Sequence[Example], max_tokens: int) -> Iterator[list[list[Example]]]:
    """`examples` in microbatches that `collate` packs into at most `max_tokens` positions each, or one
    row as long as the longest example; a microbatch is a list of rows.

    How examples are split does not change the update, as long as every microbatch is given the
    denominator of the whole.
    """
    if not examples:
        return
    sequences = [_read(example) for example in examples]
    indices, row_tokens = fill_rows(sequences, max_tokens)
    rows = [[examples[index] for index in row] for row in indices]
    size = max(1, max_tokens // row_tokens)
    yield from (rows[start : start + size] for start in range(0, len(rows), size))
