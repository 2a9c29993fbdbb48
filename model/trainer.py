"""`AZRTrainer`: one self-play step of Absolute Zero. Wires the rooms together and owns no formula.

references -> proposals -> verdicts -> problems -> answers -> rewards      rollout_phase
advantages -> minibatches -> log-probabilities -> objective -> optimizer   learning_phase
"""

import time
from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import replace
from functools import lru_cache, partial
from random import Random

import torch
from accelerate import Accelerator
from torch import Tensor

from buffer.base_buff import ProblemBuffer, ReplayBuffer, collate, microbatches, response_count
from compute.advantages import attempt_groups, compute_advantages
from compute.metrics import (
    SamplingMetrics,
    merged_diagnostics,
    round_metrics,
    time_metrics,
    token_count,
    update_metrics,
)
from compute.objective import aggregate_tokens, compute_azr_objective
from compute.reward import compute_r_total, compute_solve_rates
from compute.schedule import learning_rate
from custom_types import (
    TASKS,
    Example,
    MiniBatch,
    Policy,
    Problem,
    Prompt,
    Role,
    Rollout,
    Round,
    Scored,
    Verdict,
)
from model.args import AZRArgs
from model.inference import response_logprobs, rollout
from model.optimizer import StepGuard, adamw
from model.proposers import PROPOSERS
from prime_inversion import all_problems
from utils.debug_grads import gradient_table
from utils.processes import add_gradients, gather, same_weights, share
from utils.string_formatting import PromptRenderer
from utils.validate_by_executing import judge_rollouts


class AZRTrainer:
    """Trains one policy as proposer and solver.

    policy: trained in place. renderer: of its language and the run's primes. accelerator: where it
    runs and in which precision. After `step()`, `scored` holds the rollouts that were trained on and
    `advantages` theirs, in the same order.
    """

    def __init__(
        self, policy: Policy, renderer: PromptRenderer, args: AZRArgs, accelerator: Accelerator
    ):
        self.policy, self.renderer = policy, renderer
        self.args, self.accelerator = args, accelerator
        self.policy.model.to(accelerator.device)
        same_weights(self.policy.model)
        self.trained = [one for one in policy.model.parameters() if one.requires_grad]
        self.problems = ProblemBuffer(args.seed)
        for task in TASKS:
            space = all_problems(task, args.min_prime, args.max_prime)
            self.problems.seed(space, args.seed_problems)
        self.optimizer, self.guard = adamw(self.trained, args), StepGuard()
        self.drawing = Random(f"{args.seed}/drawing")
        self.proposer = PROPOSERS[args.proposer](policy, args, self.drawing)
        self.shuffling = Random(f"{args.seed}/minibatches")
        seed = Random(f"{args.seed}/sampling").getrandbits(63)
        self.sampling = torch.Generator().manual_seed(seed)
        # Thousands a step, of few cases.
        self.reward = lru_cache(partial(compute_r_total, **args.reward_settings))
        self.steps = self.updates = self.num_tokens = 0
        self.watched = args.debug_grads  # updates of this process still to print
        self.played: Round | None = None
        self.scored: list[Scored] = []
        self.advantages: list[float] = []

    def step(self) -> dict[str, float]:
        """One self-play step; its metrics. Raises NonFiniteError."""
        self.steps += 1
        started = time.perf_counter()
        played = self.played = self.rollout_phase()
        rolled_out = time.perf_counter()
        learned = self.learning_phase(played)
        ended = time.perf_counter()

        self.num_tokens += token_count(played.completions)
        return {
            "step": self.steps,
            "num_tokens": self.num_tokens,
            **round_metrics(played, self.args.min_prime, self.args.max_prime),
            **{f"buffer/{task}": len(self.problems.problems(task)) for task in TASKS},
            **learned,
            **time_metrics(played.completions, rolled_out - started, ended - rolled_out),
        }

    # ---------------------------------------------------------------- rollout phase

    def rollout_phase(self) -> Round:
        """Propose, judge, remember, answer, judge, pay."""
        args, span = self.args, (self.args.min_prime, self.args.max_prime)
        proposals = self._propose(self.proposer.author)
        judged = judge_rollouts(proposals, *span)
        copies = Counter(problem for *_, problem in judged if problem is not None)
        taught = self.proposer.taught(self.steps, list(copies))
        attempted = list(dict.fromkeys([*copies, *taught]))
        novel = [problem for problem in attempted if self.problems.add(problem)]
        for problem in novel if args.share_triples else ():
            self.problems.add_triple(problem)

        attempts = [problem for problem in attempted for _ in range(args.n_attempts)]
        # The paper's attempts only measure, and what is taught is answered once more.
        again = [] if args.train_attempts else taught
        answers = self._rollout(
            self.policy, map(self.renderer.solver, [*attempts, *again, *self._refill(taught)])
        )
        verdicts = [(answer, verdict) for answer, verdict, _ in judge_rollouts(answers, *span)]
        for answer, verdict in verdicts:
            self.problems.record(answer.problem, verdict is Verdict.CORRECT)
        measured, others = verdicts[: len(attempts)], verdicts[len(attempts) :]
        solve_rates = compute_solve_rates(measured)
        lessons = set(taught).difference(again)
        trained = [one for one in measured if one[0].problem in lessons]

        return Round(
            proposals=tuple(
                (self._scored(item, verdict, solve_rates.get(p), copies[p]), p)
                for item, verdict, p in judged
            ),
            novel=tuple(novel),
            solve_rates=solve_rates,
            answers=tuple(self._scored(*one) for one in trained + others),
            taught=len(trained) + len(again),
            completions=tuple(proposals + answers),
        )

    def _propose(self, author: Policy | None) -> list[Rollout]:
        """B proposals a task, each after references drawn from the buffer; none without an author."""
        if author is None:
            return []
        args, sample = self.args, self.problems.sample
        prompts = (
            self.renderer.proposer(task, sample(task, args.n_references))
            for task in TASKS
            for _ in range(args.batch_size)
        )
        return self._rollout(author, prompts)

    def _refill(self, taught: Sequence[Problem]) -> list[Problem]:
        """Problems of the buffer that fill up, beside those that are taught, the answers of a task: B n
        of them where attempts are trained on, B otherwise (the paper)."""
        args, drawn = self.args, []
        draw = self.problems.sample if args.refill == "uniform" else self.problems.sample_unsolved
        for task in TASKS:
            missing = args.batch_size - sum(problem.task is task for problem in taught)
            drawn += draw(task, missing * (args.n_attempts if args.train_attempts else 1))
        return drawn

    def _rollout(self, policy: Policy, prompts: Iterable[Prompt]) -> list[Rollout]:
        with self.accelerator.autocast():
            return rollout(
                policy,
                list(prompts),
                temperature=self.args.temperature,
                max_rows=self.args.rollout_rows,
                generator=self.sampling,
            )

    def _scored(self, item: Rollout, verdict: Verdict, solve_rate=None, copies=0) -> Scored:
        """copies: how many proposals of its cell are the same problem."""
        cost = self.args.crowding_cost * copies / self.args.batch_size
        return Scored(item, verdict, self.reward(item.role, verdict, solve_rate), cost)

    # ---------------------------------------------------------------- learning phase

    def learning_phase(self, played: Round) -> dict[str, float]:
        """Turn a round's rollouts into optimizer steps; metrics."""
        args = self.args
        self.policy.model.eval()  # dropout would make it another policy than the one that sampled
        grouped = args.advantage == "grpo"
        self.scored = list(played.scored if self.proposer.learns else played.answers)
        rollouts = [item.rollout for item in self.scored]
        self.advantages = compute_advantages(
            torch.tensor([item.reward for item in self.scored]),
            torch.tensor([rollout.cell for rollout in rollouts]),
            mode=args.advantage,
            groups=attempt_groups(self.scored, args.n_attempts) if grouped else None,
            costs=torch.tensor([item.cost for item in self.scored]),
        ).tolist()
        weight = {Role.PROPOSER: args.proposer_weight, Role.SOLVER: 1.0}
        weights = [weight[rollout.role] for rollout in rollouts]
        replay = ReplayBuffer(rollouts, self.advantages, weights)
        lr = learning_rate(self.steps, args.lr, args.lr_warmup, args.lr_hold, args.lr_half_life)
        self.optimizer.param_groups[0]["lr"] = lr
        first, *others = (
            self._packed(share(examples))
            for examples in replay.minibatches(args.minibatches, self.shuffling)
        )
        denominator = response_count(replay.examples, args.aggregate) / (1 + len(others))
        sampling = SamplingMetrics()
        others = [self._rescore(batches, sampling) for batches in others]
        updates = [self._update(first, denominator, sampling)]
        updates += [self._update(batches, denominator) for batches in others]
        return {
            "learning_rate": lr,
            "examples": len(replay),
            **SamplingMetrics.merged(gather([sampling])).metrics(),
            **update_metrics(updates),
        }

    def _packed(self, examples: Sequence[Example]) -> list[MiniBatch]:
        """Examples in parts that are in the model at a time."""
        parts = microbatches(examples, self.args.microbatch_tokens)
        return [collate(part, self.policy.pad_id) for part in parts]

    @torch.no_grad()
    def _rescore(self, parts: Sequence[MiniBatch], sampling: SamplingMetrics) -> list[MiniBatch]:
        """Replace the sampler's log-probabilities by those of the training forward: ρ starts at 1."""
        rescored = []
        for part in parts:
            batch, logprobs, entropy, _ = self._score(part)
            sampling.add(batch, logprobs, entropy)
            rescored.append(replace(part, old_logprobs=logprobs.cpu()))
        return rescored

    def _update(
        self,
        parts: Sequence[MiniBatch],
        denominator: float,
        sampling: SamplingMetrics | None = None,
    ) -> dict[str, float]:
        """One optimizer step on one minibatch, of which `parts` are this process's share; diagnostics
        of the whole.

        sampling: given for the first minibatch, which needs no rescoring: the weights are still those
        that sampled it.
        """
        whole = self._add_gradient(parts, denominator, sampling)
        self.updates, self.watched = self.updates + 1, self.watched - 1
        if self.watched >= 0:
            unread = sampling and SamplingMetrics()
            again = partial(self._add_gradient, denominator=denominator, sampling=unread)
            about = self.updates, whole["loss"], parts, again
            self.accelerator.print(gradient_table(self.policy.model, *about))
        norm = float(self.accelerator.clip_grad_norm_(self.trained, self.args.max_grad_norm))
        taken = self.guard.step(self.optimizer, whole["loss"], norm)
        return {**whole, "grad_norm": norm, "skipped_updates": float(not taken)}

    def _add_gradient(
        self, parts: Sequence[MiniBatch], denominator: float, sampling: SamplingMetrics | None
    ) -> dict[str, float]:
        """Add the gradient of all processes' `parts`; diagnostics."""
        args, diagnostics = self.args, []
        for part in parts:
            batch, logprobs, entropy, bonus = self._score(part)
            if sampling is not None:
                sampling.add(batch, logprobs.detach(), entropy.detach())
                batch = replace(batch, old_logprobs=logprobs.detach())
            over = dict(aggregate=args.aggregate, denominator=denominator, weights=batch.weights)
            objective, extra = self._objective(logprobs, batch, **over)
            loss = -objective
            if args.entropy_coef:
                loss -= args.entropy_coef * aggregate_tokens(bonus, batch.response_mask, **over)
            self.accelerator.backward(loss)
            extra["loss"] = loss.detach()
            diagnostics.append({key: value.item() for key, value in extra.items()})
        add_gradients(self.trained)
        return merged_diagnostics(gather(diagnostics), sum)

    def _objective(self, logprobs: Tensor, batch: MiniBatch, **mean_over):
        """What an update climbs, and its diagnostics."""
        return compute_azr_objective(
            logprobs,
            batch.old_logprobs,
            batch.advantages,
            batch.response_mask,
            clip_low=self.args.clip_low,
            clip_high=self.args.clip_high,
            counts=batch.counts,
            **mean_over,
        )

    def _score(self, part: MiniBatch) -> tuple[MiniBatch, Tensor, Tensor, Tensor]:
        """A part where the model is; its log-probabilities, their entropy, what the bonus is for."""
        batch = part.to(self.accelerator.device)
        floor = self.args.entropy_floor if self.args.entropy_coef else 0.0
        with self.accelerator.autocast():
            scores = response_logprobs(self.policy.model, batch, self.args.temperature, floor)
        return batch, *scores
