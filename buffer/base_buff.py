"""What a run remembers: the problems accepted so far, and this step's rollouts.

`ProblemBuffer` holds unique `Problem`s by task and draws references and refills with a generator of
its own. `ReplayBuffer` holds one step's rollouts with their advantages, equal ones once, and hands them
out as shuffled minibatches; `collate` is the one place where rows are padded.
"""

from collections import deque
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import replace
from itertools import chain, groupby, pairwise
from operator import itemgetter
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


def collate(rows: Sequence[Sequence[Example]], pad_id: int) -> MiniBatch:
    """Pack examples, each row's side by side; neighbours with the same prompt share it.

    The response mask is built from lengths: a sampled end or pad token is a token like any other.
    Example: a row of prompt 7 8 with responses 9 2 and 4 2, beside a row of length 7, becomes
    ids `7 8 9 2 4 2 p` at positions `0 1 2 3 2 3 0`: 4 follows 8 and does not see 9. With one example
    a row nothing is shared. Raises ValueError for an example without a prompt or a response, or with
    another number of logprobs than of response ids.
    """
    examples = [example for row in rows for example in row]
    lengths = torch.tensor([_response_length(example) for example in examples])
    time = max(map(_row_length, rows))
    ids, positions, trees, branches, sources = [], [], [], [], []
    for index, row in enumerate(rows, 1):
        for tree, (prompt, own) in enumerate(groupby(row, key=_prompt), 1):
            ids += prompt
            positions += range(len(prompt))
            branches += [0] * len(prompt)
            last = len(ids) - 1
            for branch, example in enumerate(own, 1):
                response = example.rollout.response_ids
                sources += (last, *range(len(ids), len(ids) + len(response) - 1))
                ids += response
                positions += range(len(prompt), len(prompt) + len(response))
                branches += [branch] * len(response)
            trees += [tree] * (len(ids) - len(trees))
        padding = index * time - len(ids)
        ids += [pad_id] * padding
        for values in (positions, trees, branches):
            values += [0] * padding

    tree, branch = (torch.tensor(values).view(-1, time) for values in (trees, branches))
    sees = (tree[:, :, None] == tree[:, None]) & (
        (branch[:, None] == 0) | (branch[:, :, None] == branch[:, None])
    )
    response_mask = torch.arange(int(lengths.max()))[None] < lengths[:, None]

    def by_example(values: Iterable) -> torch.Tensor:
        flat = torch.tensor(list(values))
        return flat.new_zeros(response_mask.shape).masked_scatter(response_mask, flat)

    rollouts = [example.rollout for example in examples]
    return MiniBatch(
        input_ids=torch.tensor(ids).view(-1, time),
        position_ids=torch.tensor(positions).view(-1, time),
        attention_mask=sees.tril()[:, None],
        targets=by_example(chain.from_iterable(own.response_ids for own in rollouts)),
        sources=by_example(sources),
        response_mask=response_mask,
        old_logprobs=by_example(chain.from_iterable(own.old_logprobs for own in rollouts)),
        advantages=torch.tensor([example.advantage for example in examples]),
        weights=torch.tensor([example.weight for example in examples]),
        cells=torch.tensor([own.cell for own in rollouts]),
    )


def _prompt(example: Example) -> tuple[int, ...]:
    return example.rollout.prompt_ids


def _response_length(example: Example) -> int:
    """Raises ValueError for an example that cannot be trained on."""
    own = example.rollout
    if not own.prompt_ids or not own.response_ids or len(own.response_ids) != len(own.old_logprobs):
        raise ValueError(
            f"an example needs a prompt, a response and as many logprobs as response ids: "
            f"{len(own.prompt_ids)}, {len(own.response_ids)}, {len(own.old_logprobs)}"
        )
    return len(own.response_ids)


def _row_length(row: Sequence[Example]) -> int:
    """Positions that a row's examples take, each prompt once."""
    responses = sum([len(example.rollout.response_ids) for example in row])
    return sum([len(prompt) for prompt, _ in groupby(row, key=_prompt)]) + responses


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
        """All examples in `n` shuffled parts of nearly equal size, each once, none empty. Those with
        the same prompt stay together but where a part ends, so that it is computed once."""
        groups = _by_prompt(self.examples)
        examples = [example for group in rng.sample(groups, len(groups)) for example in group]
        n = min(n, len(examples))
        ends = [len(examples) * part // max(n, 1) for part in range(n + 1)]
        return [examples[start:end] for start, end in pairwise(ends)]


def _by_prompt(examples: Sequence[Example]) -> list[list[Example]]:
    groups: dict[tuple[int, ...], list[Example]] = {}
    for example in examples:
        groups.setdefault(_prompt(example), []).append(example)
    return list(groups.values())


def microbatches(examples: Sequence[Example], max_tokens: int) -> Iterator[list[list[Example]]]:
    """`examples` in parts that `collate` packs into at most `max_tokens` positions each, or one
    row as long as the longest example; a part is a list of rows.

    A prompt with its responses, as far as they fit, is one tree of a row; short trees fill up the
    rows of long ones. How examples are split does not change the update, as long as every part
    is given the denominator of the whole.
    """
    trees = deque(sorted(_trees(examples, max_tokens), key=itemgetter(0), reverse=True))
    longest = trees[0][0] if trees else 0
    rows = []
    while trees:
        length, row = trees.popleft()
        while trees and length + trees[-1][0] <= longest:
            further, own = trees.pop()
            length, row = length + further, row + own
        rows.append((length, row))

    part: list[list[Example]] = []
    for length, row in sorted(rows, key=itemgetter(0), reverse=True):
        if part and width * (len(part) + 1) > max_tokens:
            yield part
            part = []
        if not part:
            width = length
        part.append(row)
    if part:
        yield part


def _trees(examples: Sequence[Example], max_tokens: int) -> Iterator[tuple[int, list[Example]]]:
    """Examples with the same prompt, in lists that take at most `max_tokens` or hold one; each with
    what it takes."""
    for group in _by_prompt(examples):
        length, tree = 0, []
        for example in group:
            own = len(example.rollout.response_ids)
            if tree and length + own > max_tokens:
                yield length, tree
                length, tree = 0, []
            length += own if tree else len(_prompt(example)) + own
            tree.append(example)
        yield length, tree
