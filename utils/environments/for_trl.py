"""For TRL's trainers: a dataset of solver prompts, a reward function for the answers, and what a proposal
earns by the attempts at it. Only the dataset needs a package, and loads it when it is made."""

from collections.abc import Callable, Collection, Iterable, Sequence
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


def solver_reward(
    environment: Environment, stop_ids: Collection[int] = ()
) -> Callable[..., list[float]]:
    """What a trainer takes as `reward_funcs`: completions, as texts or as turns, and the columns of
    `solver_dataset` in; a reward each out.

    stop_ids: the token ids that end a completion. With them one that was cut off at its limit is
    malformed, as in training; without them it is judged by what it says so far, since TRL tells a reward
    function the ids of a completion but not which of them end it.
    """

    def reward(
        completions: Sequence[str | list[dict[str, str]]],
        completion_ids: Sequence[Sequence[int]],
        task: Sequence[str],
        x: Sequence[int],
        y: Sequence[int],
        p: Sequence[int],
        **_: Any,
    ) -> list[float]:
        problems = map(problem_of, task, x, y, p)
        texts = (c if isinstance(c, str) else c[-1]["content"] for c in completions)
        ended = (not stop_ids or ids[-1] in stop_ids for ids in completion_ids)
        return [
            answer_reward(environment.judge_answer(text, problem, finished))
            for text, problem, finished in zip(texts, problems, ended, strict=True)
        ]

    reward.__name__ = "solver_reward"  # by which TRL logs it
    return reward


def learnability_reward(
    environment: Environment, proposal: str, task: str, attempts: Sequence[str]
) -> float:
    """What a proposal for a task, by name, earns, by the texts of the attempts at its problem; a text
    that proposes none needs no attempts."""
    verdict, problem = environment.judge_proposal(proposal, task)
    if problem is None:
        return proposal_reward(verdict)
    return proposal_reward(verdict, [environment.judge_answer(text, problem) for text in attempts])
