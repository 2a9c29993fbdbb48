"""What is easy, what is untrained, what is perfect: the scale on which a trained policy is read.

    python model/eval/baselines.py
    python model/eval/baselines.py --max-prime 23

A table of accuracy over the whole problem space of the range, for guessing at random, for `tiny`
before self-play, and for an exact solver, which must reach 1.0 because it checks the judge. Every
row goes through the judge of training, as text.
"""

import sys
from collections.abc import Sequence
from pathlib import Path
from random import Random

if __name__ == "__main__":
    sys.path[0] = str(Path(__file__).resolve().parents[2])  # runs from any folder

from rich.console import Console
from rich.table import Table
from transformers.utils import logging as transformers_logging

from custom_types import TASKS, Problem, TaskType
from model.args import ArgumentError, AZRArgs, parse_args
from model.eval.evaluator import Evaluator, accuracy_metrics, evaluation_problems
from model.policy import build_tiny
from model.warm_start import warm_start
from prime_inversion import primes_between
from utils.string_formatting import PromptRenderer, format_answer
from utils.validate_by_executing import judge_solver

FLAGS = ("seed", "min_prime", "max_prime", "eval_problems")


def guess(problem: Problem, rng: Random, args: AZRArgs) -> str:
    """A legal answer drawn uniformly: a residue 1..p-1, or a prime of the range."""
    if problem.task is TaskType.INDUCTION:
        return format_answer(rng.choice(primes_between(args.min_prime, args.max_prime)))
    return format_answer(rng.randint(1, problem.p - 1))


def baseline_rows(args: AZRArgs) -> dict[str, dict[str, float]]:
    """Accuracy metrics of each baseline, by its name. Takes seconds: it warm-starts one `tiny`."""
    rng = Random(f"{args.seed}/guesses")
    problems = evaluation_problems(args)

    def accuracy(texts: Sequence[str]) -> dict[str, float]:
        span = args.min_prime, args.max_prime
        verdicts = [judge_solver(t, p, *span) for t, p in zip(texts, problems, strict=True)]
        return accuracy_metrics(problems, verdicts)

    policy = build_tiny(args.max_prime, args.seed)
    renderer = PromptRenderer.for_policy(policy, args)
    evaluator = Evaluator(policy, renderer, args)
    rows = {"guess at random": accuracy([guess(problem, rng, args) for problem in problems])}
    rows["tiny, random weights"] = evaluator.accuracy(problems)
    warm_start(policy, renderer, args)
    rows["tiny, format-only warm start"] = evaluator.accuracy(problems)
    rows["exact solver"] = accuracy([format_answer(problem.solution) for problem in problems])
    return rows


def main(argv: Sequence[str]) -> int:
    """Exit status: 0, or 2 after one sentence on stderr about what cannot be done."""
    transformers_logging.set_verbosity_error()
    try:
        args = parse_args(argv, only=FLAGS)
    except ArgumentError as error:
        print(error, file=sys.stderr)
        return 2
    counts = {task: sum(p.task is task for p in evaluation_problems(args)) for task in TASKS}
    table = Table(title=f"Accuracy, primes {args.min_prime} to {args.max_prime}")
    table.add_column("policy")
    for task in TASKS:
        table.add_column(f"{task} (n = {counts[task]})", justify="right")
    for name, metrics in baseline_rows(args).items():
        table.add_row(name, *(f"{metrics[f'eval/accuracy_{task}']:.3f}" for task in TASKS))
    Console(width=100).print(table)
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
