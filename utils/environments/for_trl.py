"""For TRL's trainers: a dataset of solver prompts, a reward function for the answers, and what a proposal
earns by the attempts at it. Only the dataset needs a package, and loads it when it is made."""

from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from custom_types import Problem
from utils.environments.environment import (
    Environment,
    answer_reward,
    problem_of,
    proposal_reward,
)
from utils.string_formatting import chat_messages


def solver_dataset(problems: Iterable[Problem], environment: Environment) -> Any:
    """A `datasets.Dataset` with a row for each problem: `prompt`, the turns of a conversation, and the
    problem's `task`, `x`, `y` and `p`. Raises ImportError without the package."""
    try:
        from datasets import Dataset
    except ImportError as error:
        raise ImportError(
            "a dataset needs the package datasets; pip install 'datasets<5'"
        ) from error
    return Dataset.from_list([
        {
            "prompt": chat_messages(environment.solver_text(problem)),
            "task": str(problem.task),
            "x": problem.x,
            "y": problem.y,
            "p": problem.p,
        }
        for problem in problems
    ])  # fmt: skip


Completion = str | Sequence[Mapping[str, Any]]  # a text, or the turns of a conversation


@dataclass(frozen=True)
class SolverReward:
    """What a trainer takes as one of its `reward_funcs`, and may send to another process: completions and the
    columns of `solver_dataset` in; a reward each out, and None where a row has no task, so that it is of
    another data set."""

    environment: Environment
    stop_ids: Collection[int]
    __name__ = "solver_reward"  # by which TRL logs it

    def __call__(
        self,
        *,
        completions: Sequence[Completion],
        completion_ids: Sequence[Sequence[int]] | None = None,
        task: Sequence[str | None],
        x: Sequence[int],
        y: Sequence[int],
        p: Sequence[int],
        **_: Any,
    ) -> list[float | None]:
        ended = [True] * len(completions)
        if self.stop_ids:
            if completion_ids is None:
                raise ValueError("completion_ids: must be given, since stop_ids are")
            ended = [len(ids) > 0 and ids[-1] in self.stop_ids for ids in completion_ids]
        rewards: list[float | None] = []
        for said, finished, name, *numbers in zip(completions, ended, task, x, y, p, strict=True):
            if name is None:
                rewards.append(None)
                continue
            problem = problem_of(name, *numbers)
            verdict = self.environment.judge_answer(_text(said), problem, finished)
            rewards.append(answer_reward(verdict))
        return rewards


def solver_reward(environment: Environment, stop_ids: Collection[int] = ()) -> SolverReward:
    """The reward function for a trainer.

    stop_ids: the token ids that end a completion. With them one that was cut off at its limit is
    malformed, as in training; without them it is judged by what it says so far, since TRL tells a reward
    function the ids of a completion but not which of them end it.
    """
    return SolverReward(environment, frozenset(stop_ids))


def _text(said: Completion) -> str:
    """Of turns that of the last one, which may be in parts."""
    if not isinstance(said, str):
        said = (said[-1].get("content") if said else "") or ""
    return said if isinstance(said, str) else "".join(part.get("text") or "" for part in said)


def learnability_reward(
    environment: Environment, proposal: str, task: str, attempts: Sequence[str]
) -> float:
    """What a proposal for a task, by name, earns, by the texts of the attempts at its problem; a text
    that proposes none needs no attempts. Give an empty text for one that was cut off, which is
    malformed in training. Raises ValueError for a valid proposal without attempts."""
    verdict, problem = environment.judge_proposal(proposal, task)
    if problem is None:
        return proposal_reward(verdict)
    if isinstance(attempts, str) or not attempts:
        raise ValueError(f"attempts {attempts!r}: must be a list of one text or more")
    return proposal_reward(verdict, [environment.judge_answer(text, problem) for text in attempts])
