"""`AZRTrainer`: one self-play step of Absolute Zero. Wires the rooms together and owns no formula.

references -> proposals -> verdicts -> problems -> answers -> rewards      rollout_phase
advantages -> minibatches -> log-probabilities -> objective -> optimizer   learning_phase
"""

import time
from collections import defaultdict
from collections.abc import Sequence
from dataclasses import replace
from itertools import islice
from random import Random

import torch
from accelerate import Accelerator

from buffer.base_buff import ProblemBuffer, ReplayBuffer, collate, microbatches, response_count
from compute.advantages import compute_advantages
from compute.objective import aggregate_tokens, compute_azr_objective
from compute.reward import compute_r_total
from custom_types import TASKS, MiniBatch, Policy, Problem, Prompt, Rollout, Scored, Verdict
from model.args import AZRArgs
from model.inference import rollout, token_logprobs
from prime_inversion import all_problems
from utils.debug_grads import gradient_table
from utils.metrics import cell_metrics, completion_metrics, entropy_metrics, proposal_metrics
from utils.string_formatting import PromptRenderer
from utils.validate_by_executing import judge_rollout


class AZRTrainer:
    """Trains one policy as proposer and solver.

    policy: trained in place. renderer: of the policy's language and the run's primes. accelerator:
    where it runs and in which precision. After `step()`, `scored` holds the rollouts that were
    trained on and `advantages` theirs, in the same order.
    """

    def __init__(
        self, policy: Policy, renderer: PromptRenderer, args: AZRArgs, accelerator: Accelerator
    ):
        self.policy, self.renderer, self.args, self.accelerator = (
            policy,
            renderer,
            args,
            accelerator,
        )
        self.policy.model.to(accelerator.device)
        self.problems = ProblemBuffer(args.seed)
        for task in TASKS:
            space = all_problems(task, args.min_prime, args.max_prime)
            self.problems.seed(space, args.seed_problems)
        self.optimizer = torch.optim.AdamW(
            policy.model.parameters(),
            lr=args.lr,
            betas=(0.9, args.adam_beta2),
            weight_decay=0.0,
            fused=True,
        )
        self.shuffling = Random(f"{args.seed}/minibatches")
        self.sampling = torch.Generator().manual_seed(
            Random(f"{args.seed}/sampling").getrandbits(63)
        )
        self.steps = self.updates = self.num_tokens = 0
        self.scored: list[Scored] = []
        self.advantages: list[float] = []

    @property
    def learning_rate(self) -> float:
        """AdamW's learning rate in the current step: a function of the step number alone."""
        warmup = self.args.lr_warmup
        return self.args.lr * (min(1.0, self.steps / warmup) if warmup else 1.0)

    def step(self) -> dict[str, float]:
        """One self-play step; its metrics."""
        started = time.perf_counter()
        self.steps += 1
        self.optimizer.param_groups[0]["lr"] = self.learning_rate
        self.scored, metrics = self.rollout_phase()
        rolled_out = time.perf_counter()
        metrics |= self.learning_phase()
        ended = time.perf_counter()
        metrics |= {
            "step": self.steps,
            "num_tokens": self.num_tokens,
            "learning_rate": self.learning_rate,
            "step_time": ended - started,
            "time/rollout": rolled_out - started,
            "time/update": ended - rolled_out,
        }
        for unit in ("tokens", "completions"):
            metrics[f"perf/{unit}_per_second"] = metrics.pop(f"sampled_{unit}") / (ended - started)
        return metrics

    # ---------------------------------------------------------------- rollout phase

    def rollout_phase(self) -> tuple[list[Scored], dict[str, float]]:
        """Propose, judge, remember, answer, judge, pay: the rollouts to train on, and metrics."""
        args = self.args
        span = args.min_prime, args.max_prime
        proposals = self._rollout(
            self.renderer.proposer(task, self.problems.sample(task, args.n_references))
            for task in TASKS
            for _ in range(args.batch_size)
        )
        judged = [(proposal, *judge_rollout(proposal, *span)) for proposal in proposals]
        valid = list(dict.fromkeys(problem for *_, problem in judged if problem is not None))
        novel = [problem for problem in valid if self.problems.add(problem)]

        attempted = [problem for problem in valid for _ in range(args.n_attempts)]
        further = self._further_problems(valid)
        answers = self._rollout(self.renderer.solver(problem) for problem in attempted + further)
        verdicts = [(answer, judge_rollout(answer, *span)[0]) for answer in answers]
        solve_rates = _solve_rates(verdicts[: len(attempted)])
        trained = verdicts if args.train_attempts else verdicts[len(attempted) :]

        scored = [
            self._score(proposal, verdict, solve_rates.get(problem))
            for proposal, verdict, problem in judged
        ] + [self._score(answer, verdict) for answer, verdict in trained]
        completions = proposals + answers
        sampled = sum(len(item.response_ids) for item in completions)
        self.num_tokens += sampled + sum(len(item.prompt_ids) for item in completions)
        metrics = (
            cell_metrics(scored)
            | proposal_metrics([(item, p) for item, _, p in judged], novel, solve_rates, *span)
            | {f"buffer/{task}": len(self.problems.problems(task)) for task in TASKS}
            | completion_metrics(completions)
            | {"sampled_tokens": sampled, "sampled_completions": len(completions)}
        )
        return scored, metrics

    def _further_problems(self, valid: Sequence[Problem]) -> list[Problem]:
        """What is answered besides the attempts at `valid`, the distinct valid proposals.

        Training on attempts: the buffer's problems, until a task has B n rows. Otherwise (the paper)
        B answers a task: this step's valid proposals, filled up from the buffer.
        """
        args, further = self.args, []
        for task in TASKS:
            own = [problem for problem in valid if problem.task is task]
            if args.train_attempts:
                own, missing = [], args.n_attempts * (args.batch_size - len(own))
            else:
                missing = args.batch_size - len(own)
            further += own + self.problems.sample(task, missing)
        return further

    def _rollout(self, prompts: Sequence[Prompt]) -> list[Rollout]:
        with self.accelerator.autocast():
            return rollout(
                self.policy,
                list(prompts),
                max_new_tokens=self.args.max_response_tokens,
                temperature=self.args.temperature,
                max_rows=self.args.rollout_rows,
                generator=self.sampling,
            )

    def _score(self, item: Rollout, verdict: Verdict, solve_rate: float | None = None) -> Scored:
        reward = compute_r_total(
            item.role,
            verdict,
            solve_rate,
            invalid_reward=self.args.invalid_reward,
            extreme_reward=self.args.extreme_reward,
        )
        return Scored(item, verdict, reward)

    # ---------------------------------------------------------------- learning phase

    def learning_phase(self) -> dict[str, float]:
        """Turn the step's scored rollouts into optimizer steps; metrics."""
        args = self.args
        metrics = self._rescore()
        self.advantages = compute_advantages(
            torch.tensor([item.reward for item in self.scored]),
            torch.tensor([item.rollout.cell for item in self.scored]),
        ).tolist()
        replay = ReplayBuffer(self.scored, self.advantages)
        minibatches = replay.minibatches(args.minibatches, self.shuffling)
        updates = [self._update(items) for items in minibatches]
        for key in updates[0]:
            values = [update[key] for update in updates]
            metrics[key] = max(values) if key == "ratio_max" else sum(values) / len(values)
        return metrics

    @torch.no_grad()
    def _rescore(self) -> dict[str, float]:
        """Replace the sampler's log-probabilities by those of the training forward: ρ starts at 1."""
        rescored, entropies, difference = [], [], 0.0
        items = [(item, 0.0) for item in self.scored]
        for part in microbatches(items, self.args.microbatch_tokens):
            batch = collate(part, self.policy.pad_id).to(self.accelerator.device)
            logprobs, entropy = self._logprobs(batch)
            mask = batch.response_mask
            difference = max(difference, (logprobs - batch.old_logprobs)[mask].abs().max().item())
            values = iter(logprobs[mask].tolist())  # row by row, as the rollouts are
            for item, _ in part:
                own = tuple(islice(values, len(item.rollout.response_ids)))
                rescored.append(replace(item, rollout=replace(item.rollout, old_logprobs=own)))
            entropies += entropy.sum(1).tolist()
        self.scored = rescored
        metrics = entropy_metrics([item.rollout for item in rescored], entropies)
        return metrics | {"sampling/logp_difference_max": difference}

    def _update(self, items: Sequence[tuple[Scored, float]]) -> dict[str, float]:
        """One optimizer step on one minibatch, in as many parts as fit; diagnostics."""
        args, diagnostics = self.args, defaultdict(float)
        denominator = response_count(items, args.aggregate)
        for part in microbatches(items, args.microbatch_tokens):
            batch = collate(part, self.policy.pad_id).to(self.accelerator.device)
            logprobs, entropy = self._logprobs(batch)
            objective, extra = compute_azr_objective(
                logprobs,
                batch.old_logprobs,
                batch.advantages,
                batch.response_mask,
                clip_low=args.clip_low,
                clip_high=args.clip_high,
                aggregate=args.aggregate,
                denominator=denominator,
            )
            bonus = aggregate_tokens(entropy, batch.response_mask, args.aggregate, denominator)
            loss = -objective - args.entropy_coef * bonus
            self.accelerator.backward(loss)
            diagnostics["ratio_max"] = max(diagnostics["ratio_max"], extra.pop("ratio_max").item())
            for key, value in {"loss": loss.detach(), **extra}.items():
                diagnostics[key] += value.item()
        self.updates += 1
        if self.updates <= args.debug_grads:
            print(gradient_table(self.policy.model, self.updates))
        norm = self.accelerator.clip_grad_norm_(self.policy.model.parameters(), args.max_grad_norm)
        self.optimizer.step()
        self.optimizer.zero_grad()
        return {**diagnostics, "grad_norm": float(norm)}

    def _logprobs(self, batch: MiniBatch) -> tuple[torch.Tensor, torch.Tensor]:
        with self.accelerator.autocast():
            return token_logprobs(
                self.policy.model,
                batch.input_ids,
                batch.attention_mask,
                batch.response_mask,
                self.args.temperature,
            )


def _solve_rates(attempts: Sequence[tuple[Rollout, Verdict]]) -> dict[Problem, float]:
    """The share of correct attempts at each problem that was attempted."""
    outcomes: dict[Problem, list[bool]] = defaultdict(list)
    for attempt, verdict in attempts:
        outcomes[attempt.problem].append(verdict is Verdict.CORRECT)
    return {problem: sum(own) / len(own) for problem, own in outcomes.items()}
