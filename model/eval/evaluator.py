"""A policy's answers and proposals outside training: the render, parse and judge of training.

    evaluator = Evaluator(policy, renderer, args)
    proposal = evaluator.propose(TaskType.DEDUCTION)
    judged = evaluator.judge(proposal)

Greedy answers draw no random number, and what is sampled here has its own generator, so evaluating
never moves a training stream.
"""

from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager, nullcontext
from random import Random
from statistics import fmean

import torch

from compute.reward import compute_r_total, compute_solve_rates
from custom_types import (
    TASKS,
    Judged,
    Policy,
    Problem,
    Prompt,
    Response,
    Role,
    Rollout,
    TaskType,
    Verdict,
)
from model.args import AZRArgs
from model.inference import engine_of, rollout
from model.policy.modes import evaluating
from prime_inversion import evaluated_problems, generate_of_each_task, generate_problems
from utils.string_formatting import PromptRenderer
from utils.validate_by_executing import judge_rollout


def evaluation_problems(args: AZRArgs) -> list[Problem]:
    """`args.eval_problems` of each task's space from a stream that training never uses, or all; of those
    held out alone, where some are."""
    rng = Random(f"{args.seed}/evaluation problems")
    chosen = []
    for task in TASKS:
        space = evaluated_problems(task, args.min_prime, args.max_prime, args.held_out)
        chosen += (
            space if len(space) <= args.eval_problems else rng.sample(space, args.eval_problems)
        )
    return chosen


def accuracy_metrics(verdicts: Sequence[tuple[Problem, Verdict]]) -> dict[str, float]:
    """`eval/accuracy_{task}` for each task that has problems, and their mean, `eval/accuracy`."""
    metrics = {}
    for task in TASKS:
        of_task = [verdict for problem, verdict in verdicts if problem.task is task]
        if of_task:
            correct = sum(verdict is Verdict.CORRECT for verdict in of_task)
            metrics[f"eval/accuracy_{task}"] = correct / len(of_task)
    metrics["eval/accuracy"] = sum(metrics.values()) / len(metrics) if metrics else float("nan")
    return metrics


class Evaluator:
    """Asks one policy, within one range of primes. within: makes what the model runs in, autocast for
    one; by default whatever the caller runs in."""

    def __init__(
        self,
        policy: Policy,
        renderer: PromptRenderer,
        args: AZRArgs,
        within: Callable[[], AbstractContextManager] = nullcontext,
    ):
        self.policy, self.renderer, self.args, self.within = policy, renderer, args, within
        self.references_rng = Random(f"{args.seed}/evaluation references")
        self.drawing_rng = Random(f"{args.seed}/evaluation drawing")
        self.sampling_rng = torch.Generator().manual_seed(self.references_rng.getrandbits(63))

    def propose(self, task: TaskType, *, temperature: float | None = None) -> Rollout:
        """One proposal, after references drawn at random from the problem space, at the temperature of
        the run by default."""
        args = self.args
        temperature = args.temperature if temperature is None else temperature
        references = generate_problems(
            args.n_references, self.references_rng, args.min_prime, args.max_prime, tasks=(task,)
        )
        (proposal,) = self._rollout([self.renderer.proposer(task, references)], temperature)
        return proposal

    def solve(self, problems: Sequence[Problem], *, temperature: float = 0.0) -> list[Rollout]:
        """One answer to each problem, in order."""
        return self._rollout([self.renderer.solver(problem) for problem in problems], temperature)

    def judge(self, rollout: Rollout) -> Judged:
        """The rollout with its verdict and, where it is a valid proposal, its problem."""
        return judge_rollout(rollout, self.args.min_prime, self.args.max_prime)

    def verdicts(
        self, problems: Sequence[Problem], *, temperature: float = 0.0
    ) -> list[tuple[Problem, Verdict]]:
        """Each problem with the verdict of one answer to it, in order."""
        answers = self.solve(problems, temperature=temperature)
        return [(answer.problem, self.judge(answer).verdict) for answer in answers]

    def written(self, problem: Problem, text: str) -> Rollout:
        """A text as if the policy had written it in answer to a problem, and ended there."""
        tokenizer, stops = self.policy.tokenizer, self.policy.stop_ids
        end = tokenizer.eos_token_id if tokenizer.eos_token_id in stops else stops[0]
        ids = (*tokenizer(text, add_special_tokens=False)["input_ids"], end)
        response = Response(ids, (0.0,) * len(ids), finished=True)
        return Rollout.of(self.renderer.solver(problem), response, text)

    @torch.no_grad()
    def logprobs(self, rollouts: Sequence[Rollout]) -> list[float]:
        """The log-probability of each response, in nats: with all its tokens, at the temperature of the
        run."""
        args, engine = self.args, engine_of(self.policy)
        with self.within(), evaluating(self.policy.model):
            found = engine.logprobs(rollouts, args.microbatch_tokens, args.temperature)
        return [sum(values) for values in found]

    def accuracy(self, problems: Sequence[Problem]) -> dict[str, float]:
        """`accuracy_metrics` of one greedy answer to each problem."""
        return accuracy_metrics(self.verdicts(problems))

    def uniform_reward(self) -> dict[str, float]:
        """`eval/uniform_reward_{task}`: what a proposer would earn now that drew B problems a task
        uniformly, by n sampled attempts at each of them, paid as the run pays its own."""
        args = self.args
        drawn = generate_of_each_task(
            args.batch_size, self.drawing_rng, args.min_prime, args.max_prime
        )
        attempts = self.solve(
            [problem for problem in dict.fromkeys(drawn) for _ in range(args.n_attempts)],
            temperature=args.temperature,
        )
        rates = compute_solve_rates([self.judge(attempt) for attempt in attempts])
        return {
            f"eval/uniform_reward_{task}": fmean(
                compute_r_total(
                    Role.PROPOSER, Verdict.VALID, rates[problem], **args.reward_settings
                )
                for problem in drawn
                if problem.task is task
            )
            for task in TASKS
        }

    def _rollout(self, prompts: list[Prompt], temperature: float) -> list[Rollout]:
        with self.within():
            return rollout(
                self.policy,
                prompts,
                temperature=temperature,
                max_rows=self.args.rollout_rows,
                generator=self.sampling_rng,
            )
