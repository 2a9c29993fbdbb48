"""Low-rank adapters (LoRA, arXiv 2106.09685) by peft, for GPUs that cannot hold gradients and moments
of all weights. The model stays the transformers model it was; only its linear layers, and tables of
experts, gain a branch.

A checkpoint holds the weights with the adapters added in. Whether that is the same model depends on how
an architecture uses its layers, so it is tried and not trusted: at the start with adapters at random,
and before each checkpoint with those that were trained.
"""

from contextlib import contextmanager

import torch

from model.policy.weights import in_short

NAME = "default"
BASE = ".base_layer"  # what peft puts into the name of a weight
TOKENS = 16  # that both models read
SPREAD = 0.1  # of the random adapters: about as large as the weights they are added to
SHARE = 0.1  # of what adapters change, which the merged weights may be off
ROUNDING = {torch.float32: 1e-4}  # of the norm of logits, that rounding explains
ROUNDING_OF_16_BITS = 0.02


class AdapterError(Exception):
    """A model that cannot be trained by adapters; the message is the reason."""


def add_adapters(model: torch.nn.Module, rank: int) -> None:
    """Freeze `model` and put trainable float32 adapters of `rank` beside each linear layer but the
    output layer, in place; at first they change nothing. Raises AdapterError where a checkpoint would
    hold another model.

    Costs three passes of 16 tokens, and room for the weights in float32.
    """
    from peft import LoraConfig, inject_adapter_in_model

    names = {name: weight.shape for name, weight in model.state_dict().items()}
    config = LoraConfig(r=rank, lora_alpha=2 * rank, target_modules="all-linear")
    try:
        inject_adapter_in_model(config, model, adapter_name=NAME)
        for parameter in model.parameters():
            if parameter.requires_grad:
                parameter.data = parameter.data.float()
        fault = _rehearse(model, names)
    except Exception as error:  # of a layer that peft or a model does not know
        raise AdapterError(in_short(error)) from error
    if fault is not None:
        raise AdapterError(fault)


@torch.no_grad()
def _rehearse(model, names: dict[str, torch.Size]) -> str | None:
    """Why a checkpoint would not be the model, with adapters at random; None if it would. names: of the
    weights before there were adapters, with their shapes."""
    generator = torch.Generator().manual_seed(0)
    trained = {one: one.data for key, one in model.named_parameters() if ".lora_B." in key}
    for one in trained:
        drawn = torch.randn(one.shape, generator=generator) * SPREAD
        one.data = drawn.to(one.device, one.dtype)
    try:
        weights = merged_weights(model)
        strange = [key for key, own in weights.items() if names.get(key) != own.shape]
        if strange:
            return f"they change the name or the shape of {len(strange)} weights ({strange[0]})"
        return merge_fault(model, weights)
    finally:
        for one, before in trained.items():
            one.data = before


@torch.no_grad()
def merge_fault(model, weights: dict[str, torch.Tensor]) -> str | None:
    """Why `weights`, as `merged_weights` gives them, are not the model with its adapters, in words; None
    if they are. The model is what it was afterwards, to the last bit."""
    was_training = model.training
    model.eval()
    ids = (
        torch.arange(TOKENS, device=model.device)[None]
        % model.get_input_embeddings().weight.shape[0]
    )
    trained = model(input_ids=ids).logits.float()
    with _without_adapters(model):
        base = model(input_ids=ids).logits.float()
        kept = {}
        try:
            for key, weight in _base_weights(model).items():
                kept[weight] = weight.data
                weight.data = weights[key].to(weight.device, weight.dtype)
            merged = model(input_ids=ids).logits.float()
        finally:
            for weight, before in kept.items():
                weight.data = before
    model.train(was_training)
    rounding = max(ROUNDING.get(one.dtype, ROUNDING_OF_16_BITS) for one in kept)
    most = SHARE * (trained - base).norm() + rounding * trained.norm()
    if not (merged - trained).norm() <= most:
        off = float((merged - trained).abs().max())
        return f"merged into the weights they are another model, {off:.2g} off in a logit"
    return None


@contextmanager
def _without_adapters(model):
    layers = list(_adapted(model).values())
    for layer in layers:
        layer.enable_adapters(False)
    try:
        yield
    finally:
        for layer in layers:
            layer.enable_adapters(True)


def _adapted(model) -> dict[str, torch.nn.Module]:
    """The layers of peft, by the name of the weight that each adapts, before there were adapters."""
    layers = (
        (name, one) for name, one in model.named_modules() if hasattr(one, "get_delta_weight")
    )
    return {
        f"{name}.{getattr(layer, 'parameter_name', 'weight')}".replace(BASE, ""): layer
        for name, layer in layers
    }


def _base_weights(model) -> dict[str, torch.nn.Parameter]:
    """The weights that adapters change, by the same names."""
    adapted = _adapted(model)
    named = ((name.replace(BASE, ""), one) for name, one in model.named_parameters())
    return {name: one for name, one in named if name in adapted}


@torch.no_grad()
def merged_weights(model: torch.nn.Module) -> dict[str, torch.Tensor]:
    """The state dict of the model as it was before `add_adapters`, its adapters added in, in float32
    on the CPU, tied ones once: a checkpoint that needs no adapters."""
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
