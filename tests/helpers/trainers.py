"""Small trainers, what is changed in them, and what is compared of them, for several test files."""

import copy
from collections.abc import Callable
from dataclasses import replace

import torch
from accelerate import Accelerator

from custom_types import Policy, Round, Scored
from model.args import AZRArgs
from model.engine.shared import SharedEngine
from model.learner import Learner
from model.proposers.protocol import Followed
from model.trainer import AZRTrainer
from utils.string_formatting import PromptRenderer

SMALL = dict(max_prime=13, batch_size=8, n_attempts=3, minibatches=4, warm_start_steps=0)


def make_trainer(
    policy: Policy,
    trainer_class: type[AZRTrainer] = AZRTrainer,
    *,
    learner: Callable[[Policy, AZRArgs, Accelerator], Learner] = Learner,
    followed: Followed | None = None,
    **changes,
) -> AZRTrainer:
    """A trainer of a copy of a policy. learner: what makes its learner. followed: as `AZRTrainer` has
    it."""
    args = AZRArgs(**{**SMALL, **changes})
    policy = replace(policy, model=copy.deepcopy(policy.model))
    return trainer_of(policy, args, trainer_class, learner=learner, followed=followed)


def trainer_of(
    policy: Policy,
    args: AZRArgs,
    trainer_class: type[AZRTrainer] = AZRTrainer,
    accelerator: Accelerator | None = None,
    *,
    learner: Callable[[Policy, AZRArgs, Accelerator], Learner] = Learner,
    followed: Followed | None = None,
) -> AZRTrainer:
    """A trainer of the policy itself."""
    renderer = PromptRenderer.for_policy(policy, args)
    accelerator = accelerator or Accelerator(cpu=True)
    made = learner(policy, args, accelerator)
    return trainer_class(policy, renderer, args, accelerator, learner=made, followed=followed)


class EqualPay(AZRTrainer):
    """Its environment pays 0.3 for whatever is written."""

    def rollout_phase(self) -> Round:
        played = super().rollout_phase()

        def paid(scored: tuple[Scored, ...]) -> tuple[Scored, ...]:
            return tuple(replace(item, reward=0.3) for item in scored)

        return replace(played, proposals=paid(played.proposals), answers=paid(played.answers))


def without_refill(policy: Policy, **changes) -> AZRTrainer:
    """A trainer whose answers are the n attempts at this step's proposals."""
    return make_trainer(policy, refill="none", **changes)


def with_engine(engine_class: type[SharedEngine]) -> Callable[..., Learner]:
    """What makes a learner with another engine, for `make_trainer`."""

    def learner(policy: Policy, args: AZRArgs, accelerator: Accelerator) -> Learner:
        engine = engine_class(policy.model, policy.stop_ids, policy.pad_id)
        return Learner(policy, args, accelerator, engine=engine)

    return learner


def keep_weights(trainer: AZRTrainer) -> None:
    """From now on an update leaves the weights as they are, and its gradient stays: the next one's is
    added to it."""
    trainer.learner.optimizer.step = trainer.learner.optimizer.zero_grad = lambda: None


def weights(trainer: AZRTrainer) -> list[torch.Tensor]:
    return [weight.detach().clone() for weight in trainer.policy.model.parameters()]


def flat_gradient(trainer: AZRTrainer) -> torch.Tensor:
    return torch.cat([weight.grad.flatten() for weight in trainer.policy.model.parameters()])


def relative(a: torch.Tensor, b: torch.Tensor) -> float:
    return ((a - b).norm() / b.norm()).item()


def untimed(row: dict) -> dict:
    """A row of metrics without what may differ between two runs of one seed."""
    timed = ("time/", "perf/", "step_time")
    return {key: value for key, value in row.items() if not key.startswith(timed)}
