"""`Learner`: a step's examples in, optimizer steps and diagnostics out.

replay buffer -> minibatches -> log-probabilities -> objective -> gradient -> optimizer

What it climbs is given to it: `compute_azr_objective`, or any function with its signature.
"""

from collections.abc import Callable, Sequence
from random import Random

import torch
from accelerate import Accelerator
from torch import Tensor

from buffer.base_buff import ReplayBuffer
from compute.metrics import SamplingMetrics, merged_diagnostics, update_metrics
from compute.objective import aggregate_tokens, compute_azr_objective
from custom_types import MiniBatch, Policy
from model.args import AZRArgs
from model.engine.protocol import Engine, Scores
from model.inference import engine_of
from model.optimizer import StepGuard, adamw
from utils.debug_grads import gradient_table
from utils.processes import add_gradients, gather, share

Objective = Callable[..., tuple[Tensor, dict[str, Tensor]]]


class Learner:
    """Trains a policy in place. engine: what scores it, by default the one that the policy names."""

    def __init__(
        self,
        policy: Policy,
        args: AZRArgs,
        accelerator: Accelerator,
        *,
        objective: Objective = compute_azr_objective,
        engine: Engine | None = None,
    ):
        self.model, self.args, self.accelerator = policy.model, args, accelerator
        self.objective, self.engine = objective, engine or engine_of(policy)
        self.trained = [weight for weight in self.model.parameters() if weight.requires_grad]
        self.optimizer, self.guard = adamw(self.trained, args), StepGuard()
        self.minibatch_rng = Random(f"{args.seed}/minibatches")
        self.updates = 0
        self.tables_to_print = args.debug_grads

    def learn(self, replay: ReplayBuffer, lr: float) -> dict[str, float]:
        """One optimizer step on each minibatch; metrics. Raises NonFiniteError."""
        args = self.args
        self.model.eval()  # dropout would make it another policy than the one that sampled
        self.optimizer.param_groups[0]["lr"] = lr
        minibatches = [
            self.engine.batches(share(examples), args.microbatch_tokens)
            for examples in replay.minibatches(args.minibatches, self.minibatch_rng)
        ]
        denominator = replay.count(args.aggregate) / len(minibatches)

        # The ratio starts from the training forward's log-probabilities, not from the sampler's. The
        # first minibatch needs no rescoring: its update sees the very weights that sampled it.
        sampling = SamplingMetrics()
        rescored = [self._rescore(batches, sampling) for batches in minibatches[1:]]
        first, scores = self._update(minibatches[0], [None] * len(minibatches[0]), denominator)
        for batch, found in zip(minibatches[0], scores, strict=True):
            sampling.add(batch.to(self.accelerator.device), found.logprobs, found.entropy)
        others = [
            self._update(batches, old, denominator)[0]
            for batches, old in zip(minibatches[1:], rescored, strict=True)
        ]
        return {
            "learning_rate": lr,
            "examples": len(replay),
            **SamplingMetrics.merged(gather([sampling])).metrics(),
            **update_metrics([first, *others]),
        }

    @torch.no_grad()
    def _rescore(self, batches: Sequence[MiniBatch], sampling: SamplingMetrics) -> list[Tensor]:
        """The log-probabilities of each batch before the first update; `sampling` takes them in."""
        found = []
        for batch in batches:
            batch, scores = self._score(batch)
            sampling.add(batch, scores.logprobs, scores.entropy)
            found.append(scores.logprobs)
        return found

    def _update(
        self, batches: Sequence[MiniBatch], old: Sequence[Tensor | None], denominator: float
    ) -> tuple[dict[str, float], list[Scores]]:
        """One optimizer step on one minibatch, of which `batches` are this process's share. old: their
        log-probabilities before the first update, None where this is the first. Diagnostics of the
        whole minibatch, and the scores of `batches`."""
        diagnostics, scores = self._add_gradient(batches, old, denominator)
        self.updates += 1
        if self.tables_to_print > 0:
            self.tables_to_print -= 1
            self.accelerator.print(
                gradient_table(
                    self.model,
                    self.updates,
                    diagnostics["loss"],
                    batches,
                    lambda chosen: self._add_gradient(chosen, old, denominator)[0],
                )
            )
        norm = float(self.accelerator.clip_grad_norm_(self.trained, self.args.max_grad_norm))
        taken = self.guard.step(self.optimizer, diagnostics["loss"], norm)
        return {**diagnostics, "grad_norm": norm, "skipped_updates": float(not taken)}, scores

    def _add_gradient(
        self, batches: Sequence[MiniBatch], old: Sequence[Tensor | None], denominator: float
    ) -> tuple[dict[str, float], list[Scores]]:
        """Add the gradient of all processes' batches to the model's; see `_update`."""
        args, diagnostics, found = self.args, [], []
        for batch, old_logprobs in zip(batches, old, strict=True):
            batch, scores = self._score(batch)
            objective, measured = self.objective(
                scores.logprobs,
                scores.logprobs.detach() if old_logprobs is None else old_logprobs,
                batch.advantages,
                batch.response_mask,
                clip_low=args.clip_low,
                clip_high=args.clip_high,
                aggregate=args.aggregate,
                denominator=denominator,
                weights=batch.weights,
                counts=batch.counts,
            )
            loss = -objective
            if args.entropy_coef:
                bonus = aggregate_tokens(
                    scores.bonus, batch.response_mask, args.aggregate, denominator, batch.weights
                )
                loss -= args.entropy_coef * bonus
            self.accelerator.backward(loss)
            measured["loss"] = loss.detach()
            diagnostics.append({key: value.item() for key, value in measured.items()})
            found.append(Scores(*(values.detach() for values in scores)))
        add_gradients(self.trained)
        return merged_diagnostics(gather(diagnostics), sum), found

    def _score(self, batch: MiniBatch) -> tuple[MiniBatch, Scores]:
        """A batch where the model is, and how likely its responses are there."""
        batch = batch.to(self.accelerator.device)
        floor = self.args.entropy_floor if self.args.entropy_coef else 0.0
        with self.accelerator.autocast():
            return batch, self.engine.score(batch, self.args.temperature, floor)
