"""Accuracy of a policy on a set of problems: the render, the parse and the judge of training.

Greedy by default, which draws no random number, so evaluating never moves a training stream.
"""

from collections.abc import Sequence
from random import Random

import torch

from custom_types import TASKS, Policy, Problem, Verdict
from model.args import AZRArgs
from model.inference import rollout
from prime_inversion import all_problems
from utils.string_formatting import PromptRenderer
from utils.validate_by_executing import judge_rollout


def evaluation_problems(args: AZRArgs) -> list[Problem]:
    """`args.eval_problems` of each task's space from a stream that training never uses, or all."""
    rng = Random(f"{args.seed}/evaluation problems")
    chosen = []
    for task in TASKS:
        space = all_problems(task, args.min_prime, args.max_prime)
        chosen += space if len(space) <= args.eval_problems else rng.sample(space, args.eval_problems)
    return chosen


def answer_problems(
    policy: Policy,
    renderer: PromptRenderer,
    problems: Sequence[Problem],
    args: AZRArgs,
    *,
    temperature: float = 0.0,
    generator: torch.Generator | None = None,
) -> list[Verdict]:
    """The verdict on one answer to each problem, in order."""
    rollouts = rollout(
        policy,
        [renderer.solver(problem) for problem in problems],
        max_new_tokens=args.max_response_tokens,
        temperature=temperature,
        max_rows=args.rollout_rows,
        generator=generator,
    )
    return [judge_rollout(item, args.min_prime, args.max_prime)[0] for item in rollouts]


def accuracy_metrics(problems: Sequence[Problem], verdicts: Sequence[Verdict]) -> dict[str, float]:
    """`eval/accuracy_{task}` for each task that has problems and their mean, `eval/accuracy`."""
    metrics = {}
    for task in TASKS:
        own = [v for p, v in zip(problems, verdicts, strict=True) if p.task is task]
        if own:
            correct = sum(verdict is Verdict.CORRECT for verdict in own)
            metrics[f"eval/accuracy_{task}"] = correct / len(own)
    metrics["eval/accuracy"] = sum(metrics.values()) / len(metrics) if metrics else float("nan")
    return metrics
