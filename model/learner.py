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
from compute.objective import aggregate_tokens, azr_loss, compute_azr_objective
from custom_types import Example, MiniBatch, Policy
from model.args import AZRArgs
from model.engine.protocol import Engine, Scores
from model.inference import engine_of
from model.optimizer import StepGuard, adamw
from utils.debug_grads import gradient_table
from utils.processes import gather, share
from utils.weights import Replicated

Objective = Callable[..., tuple[Tensor, dict[str, Tensor]]]


class Learner:
    """Trains a policy in place. engine: what scores it, by default the one that the policy names. weights:
    who has the model's, by default each process all."""

    def __init__(
        self,
        policy: Policy,
        args: AZRArgs,
        accelerator: Accelerator,
        *,
        objective: Objective = compute_azr_objective,
        engine: Engine | None = None,
        weights: Replicated | None = None,
    ):
        self.model, self.args, self.accelerator = policy.model, args, accelerator
        self.objective, self.engine = objective, engine or engine_of(policy)
        self.weights = weights or Replicated(policy.model)
        self.trained = self.weights.trained
        self.optimizer, self.guard = adamw(self.trained, args), StepGuard()
        self.minibatch_rng = Random(f"{args.seed}/minibatches")
        self.updates = 0
        self.tables_to_print = args.debug_grads

    def learn(self, replay: ReplayBuffer, lr: float) -> dict[str, float]:
        """Takes one optimizer step on each minibatch of the buffer and returns metrics; of an empty
        buffer none, and few metrics. Raises NonFiniteError."""
        args = self.args
        if not len(replay):  # nothing was proposed or drawn, and nothing filled up
            return {
                "learning_rate": lr,
                "examples": 0,
                "skipped_updates": 0.0,
                **SamplingMetrics().metrics(),
            }
        self.model.eval()  # dropout would make it another policy than the one that sampled
        self.optimizer.param_groups[0]["lr"] = lr
        minibatches = [
            self._batches(examples)
            for examples in replay.minibatches(args.minibatches, self.minibatch_rng)
        ]
        # The same for each: an example weighs as much in whichever minibatch it is.
        denominator = replay.count(args.aggregate) / len(minibatches)

        # The ratio starts from the training forward's log-probabilities, not from the sampler's. The
        # first minibatch needs no rescoring: its update sees the very weights that sampled it.
        first, later = minibatches[0], minibatches[1:]
        with self.weights.gathered():
            rescored = [self._rescore(batches) for batches in later]
        update, first_scores = self._update(first, None, denominator)
        updates = [update]
        for batches, old in zip(later, rescored, strict=True):
            update, _ = self._update(batches, old, denominator)
            updates.append(update)

        sampling = SamplingMetrics()
        for batches, scores in zip([*later, first], [*rescored, first_scores], strict=True):
            for batch, found in zip(batches, scores, strict=True):
                sampling.add(batch, found.logprobs.cpu(), found.entropy.cpu())
        return {
            "learning_rate": lr,
            "examples": len(replay),
            **SamplingMetrics.merged(gather([sampling])).metrics(),
            **update_metrics(updates),
        }

    def _batches(self, examples: Sequence[Example]) -> list[MiniBatch]:
        """This process's share of a minibatch."""
        limit = self.args.microbatch_tokens
        mine = self.engine.batches(share(examples), limit)
        return self.weights.even(mine, lambda: self.engine.batches(examples[:1], limit)[0])

    @torch.no_grad()
    def _rescore(self, batches: Sequence[MiniBatch]) -> list[Scores]:
        """Scores each batch by the weights that sampled it."""
        return [self._score(batch.to(self.accelerator.device)) for batch in batches]

    def _update(
        self, batches: Sequence[MiniBatch], old: Sequence[Scores] | None, denominator: float
    ) -> tuple[dict[str, float], list[Scores]]:
        """Takes one optimizer step on one minibatch. batches: this process's share of it. old: their
        scores by the weights that sampled them; None while these are still the weights. Returns
        diagnostics of the whole minibatch, and the scores of `batches` that the step was made of."""
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
        norm = self.weights.clip_gradient(self.args.max_grad_norm)
        taken = self.guard.step(self.optimizer, diagnostics["loss"], norm)
        return {**diagnostics, "grad_norm": norm, "skipped_updates": float(not taken)}, scores

    def _add_gradient(
        self, batches: Sequence[MiniBatch], old: Sequence[Scores] | None, denominator: float
    ) -> tuple[dict[str, float], list[Scores]]:
        """Adds the gradient of all processes' batches to the model's; see `_update`."""
        args = self.args
        diagnostics, found = [], []
        for number, batch in enumerate(batches):
            batch = batch.to(self.accelerator.device)
            scores = self.weights.run(self._score, batch)
            before = scores.detach() if old is None else old[number]
            objective, measured = self._objective(batch, scores, before, denominator)
            bonus = aggregate_tokens(
                scores.likely_entropy,
                batch.response_mask,
                args.aggregate,
                denominator,
                batch.weights,
            )
            loss = azr_loss(objective, bonus, args.entropy_coef)
            self.accelerator.backward(loss)
            measured["loss"] = loss.detach()
            diagnostics.append({key: value.item() for key, value in measured.items()})
            found.append(scores.detach())
        self.weights.add_gradients()
        return merged_diagnostics(gather(diagnostics), sum), found

    def gradient(self, replay: ReplayBuffer) -> Tensor:
        """The gradient of the objective, without an entropy bonus, of all examples by the trained weights
        as they are: flat, as long as there are weights. Changes nothing, and asks no other process."""
        self.model.eval()
        total, denominator = torch.zeros(()), replay.count(self.args.aggregate)
        for batch in self.engine.batches(replay.examples, self.args.microbatch_tokens):
            batch = batch.to(self.accelerator.device)
            scores = self._score(batch)
            objective, _ = self._objective(batch, scores, scores.detach(), denominator)
            found = torch.autograd.grad(objective, self.trained, materialize_grads=True)
            total = torch.cat([part.flatten() for part in found]) + total.to(found[0])
        return total

    def _objective(
        self, batch: MiniBatch, scores: Scores, before: Scores, denominator: float
    ) -> tuple[Tensor, dict[str, Tensor]]:
        """What is climbed, and its diagnostics; before: scores by the weights that sampled."""
        return self.objective(
            scores.logprobs,
            before.logprobs,
            batch.advantages,
            batch.response_mask,
            clip_low=self.args.clip_low,
            clip_high=self.args.clip_high,
            aggregate=self.args.aggregate,
            denominator=denominator,
            weights=batch.weights,
            counts=batch.counts,
        )

    def _score(self, batch: MiniBatch) -> Scores:
        """How likely the responses of a batch are, which is where the model is."""
        floor = self.args.entropy_floor if self.args.entropy_coef else 0.0
        with self.accelerator.autocast():
            return self.engine.score(batch, self.args.temperature, floor)
