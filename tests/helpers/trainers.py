"""Small trainers, and what is compared of them, for several test files."""

import copy
from dataclasses import replace

import torch
from accelerate import Accelerator

from custom_types import Policy
from model.args import AZRArgs
from model.trainer import AZRTrainer
from utils.string_formatting import PromptRenderer

SMALL = dict(max_prime=13, batch_size=8, n_attempts=3, minibatches=4, warm_start_steps=0)


def make_trainer(policy: Policy, trainer_class=AZRTrainer, **changes) -> AZRTrainer:
    """A trainer of its own copy of a policy."""
    args = AZRArgs(**{**SMALL, **changes})
    return trainer_of(replace(policy, model=copy.deepcopy(policy.model)), args, trainer_class)


def trainer_of(
    policy: Policy, args: AZRArgs, trainer_class=AZRTrainer, accelerator: Accelerator | None = None
) -> AZRTrainer:
    """A trainer of the policy itself."""
    renderer = PromptRenderer.for_policy(policy, args)
    return trainer_class(policy, renderer, args, accelerator or Accelerator(cpu=True))


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
