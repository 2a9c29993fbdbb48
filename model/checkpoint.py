"""What a run is made of between two steps, as one nested dict: with it, and the weights, another process
continues as this one would have, to the last bit.
"""

from collections.abc import Mapping
from pathlib import Path
from random import Random

import torch

from custom_types import Policy
from model.eval.evaluator import Evaluator
from model.learner import Learner
from model.policy.adapters import merge_fault, merged_weights
from model.policy.weights import PolicyError
from model.trainer import AZRTrainer
from utils.random_states import (
    global_states,
    random_state,
    set_global_states,
    set_random_state,
)


def training_state(trainer: AZRTrainer, evaluator: Evaluator) -> dict:
    """Counters, buffer, optimizer and every generator, in JSON's types and tensors; of adapters the
    weights too, which a checkpoint's model has merged, and what they belong to."""
    learner = trainer.learner
    return {
        "step": trainer.steps,
        "updates": learner.updates,
        "num_tokens": trainer.num_tokens,
        "skipped_in_a_row": learner.guard.skipped_in_a_row,
        "problems": trainer.problems.state_dict(),
        "adapters": _adapters(trainer),
        "proposer": trainer.proposer.state_dict(),
        "measure": trainer.measure.state_dict(),
        "origin": trainer.policy.origin,
        "engine": trainer.policy.engine,
        "optimizer": {
            index: {name: learner.weights.whole(value) for name, value in values.items()}
            for index, values in learner.optimizer.state_dict()["state"].items()
        },
        "generators": {
            name: random_state(rng) for name, rng in _generators(trainer, evaluator).items()
        },
        "global generators": global_states(),
    }


def restore(trainer: AZRTrainer, evaluator: Evaluator, state: dict) -> None:
    """Make both what they were when `state` was taken; the policy has its weights already, those of
    adapters excepted."""
    learner = trainer.learner
    trainer.steps, trainer.num_tokens = state["step"], state["num_tokens"]
    learner.updates = state["updates"]
    learner.guard.skipped_in_a_row = state["skipped_in_a_row"]
    trainer.problems.load_state_dict(state["problems"])
    for name, weight in _adapters(trainer).items():
        weight.data.copy_(state["adapters"][name])
    trainer.proposer.load_state_dict(state["proposer"])
    trainer.measure.load_state_dict(state.get("measure", {}))  # older checkpoints have none
    moments = {
        int(index): _own_moments(learner, learner.trained[int(index)], values)
        for index, values in state["optimizer"].items()
    }
    groups = learner.optimizer.state_dict()["param_groups"]
    learner.optimizer.load_state_dict({"state": moments, "param_groups": groups})
    for name, rng in _generators(trainer, evaluator).items():
        set_random_state(rng, state["generators"][name])
    set_global_states(state["global generators"])


def _generators(trainer: AZRTrainer, evaluator: Evaluator) -> dict[str, Random | torch.Generator]:
    """Every generator of both but the buffer's, which is part of the buffer's state."""
    return {
        "drawing": trainer.proposer.drawing_rng,
        "shuffling": trainer.learner.minibatch_rng,
        "sampling": trainer.sampling_rng,
        "evaluation references": evaluator.references_rng,
        "evaluation drawing": evaluator.drawing_rng,
        "evaluation sampling": evaluator.sampling_rng,
    }


def _adapters(trainer: AZRTrainer) -> dict[str, torch.nn.Parameter]:
    """The trained weights by name, where they are not the model's own."""
    named = trainer.policy.model.named_parameters() if trainer.args.lora_rank else ()
    return {name: weight for name, weight in named if weight.requires_grad}


def _own_moments(learner: Learner, weight: torch.nn.Parameter, values: Mapping) -> dict:
    """What this process has of the moments of a weight; their count is of all."""
    return {
        name: learner.weights.own(value, weight) if value.shape == weight.shape else value
        for name, value in values.items()
    }


def save_policy(
    policy: Policy, folder: Path, lora_rank: int, whole: Mapping[str, torch.Tensor] | None = None
) -> None:
    """Weights, adapters merged in, and tokenizer: a folder that transformers' Auto classes load. whole: the
    weights by name, of a model that has not all of each. Raises PolicyError where that would be another
    model than the one that was trained."""
    weights = merged_weights(policy.model) if lora_rank else None
    fault = merge_fault(policy.model, weights) if weights else None
    if fault is not None:
        raise PolicyError(f"a checkpoint would not be the model with its adapters: {fault}")
    policy.model.save_pretrained(folder, state_dict=weights or whole)
    policy.tokenizer.save_pretrained(folder)
