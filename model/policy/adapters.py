"""Low-rank adapters (LoRA, arXiv 2106.09685) by peft, for GPUs that cannot hold gradients and moments
of all weights. The model stays the transformers model it was; only its linear layers, and tables of
experts, gain a branch.

A checkpoint holds the weights with the adapters added in. Whether that is the same model depends on how
an architecture uses its layers. So it is tried: at the start with random adapters, and before each
checkpoint with the trained ones.
"""

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch
from transformers import PreTrainedModel

from model.policy.modes import evaluating
from model.policy.weights import embedded_words, in_short

NAME = "default"
BASE = ".base_layer"  # what peft puts into the name of a weight
TOKENS = 16  # how many both models read
SPREAD = 0.1  # of the random adapters: about as large as the weights they are added to
# How far the logits of the merged weights may be off: a share of what the adapters change in them, and a
# share of their norm, which rounding explains.
SHARE_OF_CHANGE = 0.1
ROUNDING_OF_FLOAT32, ROUNDING_OF_16_BITS = 1e-4, 0.02


class AdapterError(Exception):
    """A model that cannot be trained by adapters; the message is the reason."""


def add_adapters(model: PreTrainedModel, rank: int) -> None:
    """Freeze `model` and put trainable float32 adapters of `rank` beside each linear layer except the
    output layer, in place; at first they change nothing. Raises AdapterError if a checkpoint would hold
    another model.

    Costs three passes of 16 tokens, and room for the weights in float32.
    """
    shapes = {name: weight.shape for name, weight in model.state_dict().items()}
    try:
        inject_adapters(model, rank)
        fault = _rehearse(model, shapes)
    except Exception as error:  # of a layer that peft or a model does not know
        raise AdapterError(in_short(error)) from error
    if fault is not None:
        raise AdapterError(fault)


def inject_adapters(model: PreTrainedModel, rank: int) -> None:
    """`add_adapters` without a trial."""
    from peft import LoraConfig, inject_adapter_in_model

    config = LoraConfig(r=rank, lora_alpha=2 * rank, target_modules="all-linear")
    inject_adapter_in_model(config, model, adapter_name=NAME)
    for parameter in model.parameters():
        if parameter.requires_grad:
            parameter.data = parameter.data.float()


@torch.no_grad()
def _rehearse(model: PreTrainedModel, shapes: dict[str, torch.Size]) -> str | None:
    """Why a checkpoint would not be the model, tried with random adapters; None if it would be. shapes:
    of the weights before there were adapters, by name."""
    draw_rng = torch.Generator().manual_seed(0)
    before = {
        weight: weight.data for name, weight in model.named_parameters() if ".lora_B." in name
    }
    for weight in before:
        drawn = torch.randn(weight.shape, generator=draw_rng) * SPREAD
        weight.data = drawn.to(weight.device, weight.dtype)
    try:
        merged = merged_weights(model)
        strange = [name for name, weight in merged.items() if shapes.get(name) != weight.shape]
        if strange:
            return f"they change the name or the shape of {len(strange)} weights ({strange[0]})"
        return merge_fault(model, merged)
    finally:
        for weight, data in before.items():
            weight.data = data


@torch.no_grad()
def merge_fault(model: PreTrainedModel, weights: dict[str, torch.Tensor]) -> str | None:
    """Why `weights`, as `merged_weights` gives them, are not the model with its adapters, in words; None
    if they are. Leaves the model as it was, to the last bit."""
    ids = torch.arange(TOKENS, device=model.device)[None] % embedded_words(model)
    with evaluating(model):
        trained = model(input_ids=ids).logits.float()
        with _without_adapters(model):
            base = model(input_ids=ids).logits.float()
            before = {}
            try:
                for name, weight in _base_weights(model).items():
                    before[weight] = weight.data
                    weight.data = weights[name].to(weight.device, weight.dtype)
                merged = model(input_ids=ids).logits.float()
            finally:
                for weight, data in before.items():
                    weight.data = data
    in_float32 = all(weight.dtype is torch.float32 for weight in before)
    rounding = ROUNDING_OF_FLOAT32 if in_float32 else ROUNDING_OF_16_BITS
    allowed = SHARE_OF_CHANGE * (trained - base).norm() + rounding * trained.norm()
    if not (merged - trained).norm() <= allowed:  # so that NaN is a fault
        off = float((merged - trained).abs().max())
        return f"merged into the weights they are another model, {off:.2g} off in a logit"
    return None


@contextmanager
def _without_adapters(model: PreTrainedModel) -> Iterator[None]:
    layers = list(_adapted(model).values())
    for layer in layers:
        layer.enable_adapters(False)
    try:
        yield
    finally:
        for layer in layers:
            layer.enable_adapters(True)


def _adapted(model: PreTrainedModel) -> dict[str, Any]:
    """The layers of peft, by the name that the weight which each adapts had before there were adapters."""
    return {
        f"{name}.{getattr(layer, 'parameter_name', 'weight')}".replace(BASE, ""): layer
        for name, layer in model.named_modules()
        if hasattr(layer, "get_delta_weight")
    }


def _base_weights(model: PreTrainedModel) -> dict[str, torch.nn.Parameter]:
    """The weights that adapters change, by the same names."""
    adapted = _adapted(model)
    named = ((name.replace(BASE, ""), weight) for name, weight in model.named_parameters())
    return {name: weight for name, weight in named if name in adapted}


@torch.no_grad()
def merged_weights(model: PreTrainedModel) -> dict[str, torch.Tensor]:
    """A state dict with the names from before `add_adapters` and with the adapters added in: a checkpoint
    that needs no adapters. In float32 on the CPU; weights that are tied stand in it once."""
    adapted, weights, seen = _adapted(model), {}, set()
    for name, weight in model.state_dict().items():
        if ".lora_" in name or weight.data_ptr() in seen:
            continue
        seen.add(weight.data_ptr())
        name = name.replace(BASE, "")
        if name in adapted:
            weight = weight.float() + adapted[name].get_delta_weight(NAME)
        weights[name] = weight.float().cpu() if weight.is_floating_point() else weight.cpu()
    return weights
