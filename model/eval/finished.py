"""Who can be asked: a finished run, one of its checkpoints, or a model as it is.

player = load_evaluator("runs/first")
proposal = player.propose(TaskType.DEDUCTION)
"""

from collections.abc import Sequence
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import torch

from constants import AUTO, DEFAULT_MAX_PRIME, EMBEDDED_MODELS
from custom_types import ROLES, Policy, Role
from model.args import AZRArgs
from model.engine.probe import fitted
from model.eval.evaluator import Evaluator
from model.policy.device import device_kind
from model.policy.language import language
from model.policy.load import (
    largest_named_prime,
    load_policy,
    load_pretrained,
    require_words,
)
from model.presets import is_small, preset
from model.run.checkpoints import VALUES, is_checkpoint, load_values, pointed_at
from model.run.finished import FinishedRun, is_run
from model.run.rows import RunDirectoryError, current_args, decided_arguments
from utils.precision import precision_on
from utils.string_formatting import PromptRenderer

MODEL_ROWS = 128  # answers at a time of a model from elsewhere, which a GPU of 24 GB has room for


def is_trained(model: str | Path) -> bool:
    """Whether this is a run or a checkpoint, which has its arguments, and no model as it is."""
    return is_run(model) or is_checkpoint(pointed_at(Path(model)))


def checkpoint_of(model: str | Path) -> Path:
    """A checkpoint itself, or the newest one of a run. Raises RunDirectoryError and CheckpointError."""
    return FinishedRun(model).newest_checkpoint if is_run(model) else pointed_at(Path(model))


def trained_args(model: str | Path) -> AZRArgs:
    """The arguments that a run or a checkpoint was trained with. Raises RunDirectoryError and
    CheckpointError."""
    if is_run(model):
        return FinishedRun(model).azr_args
    folder = pointed_at(Path(model))
    where, saved = f"{folder}/{VALUES}", load_values(folder).get("args")
    if not isinstance(saved, dict):
        raise RunDirectoryError(f"{where}: must hold the arguments of a run")
    return current_args(decided_arguments(saved, where))


def load_asked(model: str | Path, **asking: Any) -> tuple[Policy, AZRArgs]:
    """The policy that a run, a checkpoint, or a value of `--model` names, on the CPU, and the arguments to
    ask it with, but for `asking`: those it was trained with, or those of its preset with primes to 31, or in
    a folder of a small language to where its words end. Raises PolicyError, ArgumentError, RunDirectoryError
    and CheckpointError."""
    checkpoint = checkpoint_of(model) if is_trained(model) else None
    spoken = language(str(checkpoint or model))
    device_kind(asking.get("device", AUTO), spoken)  # before anything is loaded
    if checkpoint is not None:
        args = replace(trained_args(model), **{"device": AUTO} | asking)  # of this machine
        policy = replace(load_pretrained(str(checkpoint)), name=str(model))
        require_words(policy, args.max_prime)
        return policy, args
    values = preset(spoken) | dict(rollout_rows=MODEL_ROWS, max_prime=DEFAULT_MAX_PRIME) | asking
    if is_small(spoken) and str(model) not in EMBEDDED_MODELS and "max_prime" not in asking:
        policy = load_pretrained(str(model))
        values["max_prime"] = largest_named_prime(policy)
        return policy, AZRArgs(**values, model=str(model))
    args = AZRArgs(**values, model=str(model))
    return load_policy(args), args


def evaluator_of(
    policy: Policy, args: AZRArgs, roles: Sequence[Role] = ROLES, engine: str | None = None
) -> Evaluator:
    """Asks a policy, on a device and in a precision as training chooses them. engine: that it is known
    to fit; by default a trial in `roles` decides. Raises PolicyError for a policy from elsewhere that
    cannot be asked."""
    spoken = policy.prompts.name
    kind = device_kind(args.device, spoken)
    narrow = precision_on(kind, args.precision, is_small(spoken)) == "bfloat16"
    policy.model.to(kind)
    renderer = PromptRenderer.for_policy(policy, args)
    if engine is not None:
        policy = replace(policy, engine=engine)
    elif policy.name not in EMBEDDED_MODELS:
        policy, _ = fitted(policy, renderer, args, roles=roles)
    within = partial(torch.autocast, kind, torch.bfloat16, enabled=narrow)
    return Evaluator(policy, renderer, args, within)


def load_evaluator(model: str | Path, **asking: Any) -> Evaluator:
    """Asks a finished run, a checkpoint or a model, with its arguments but for `asking`. Raises what
    `load_asked` and `evaluator_of` raise."""
    policy, args = load_asked(model, **asking)
    return evaluator_of(policy, args, engine=_engine_of(model))


def _engine_of(model: str | Path) -> str | None:
    """The engine that a run or a checkpoint was trained with; None where it is not known."""
    if is_run(model):
        return FinishedRun(model).config.get("engine", "shared")  # older runs have none beside it
    return load_values(pointed_at(Path(model))).get("engine") if is_trained(model) else None
