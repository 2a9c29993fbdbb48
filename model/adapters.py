"""Low-rank adapters (LoRA, arXiv 2106.09685) by peft, for GPUs that cannot hold gradients and moments
of all weights. The model stays the transformers model it was; only its linear layers gain a branch.
"""

import torch

NAME = "default"


def add_adapters(model: torch.nn.Module, rank: int) -> None:
    """Freeze `model` and put trainable float32 adapters of `rank` beside each linear layer but the
    output layer, in place; at first they change nothing."""
    from peft import LoraConfig, inject_adapter_in_model

    config = LoraConfig(r=rank, lora_alpha=2 * rank, target_modules="all-linear")
    inject_adapter_in_model(config, model, adapter_name=NAME)
    for parameter in model.parameters():
        if parameter.requires_grad:
            parameter.data = parameter.data.float()


@torch.no_grad()
def merged_weights(model: torch.nn.Module) -> dict[str, torch.Tensor]:
    """The state dict of the model as it was before `add_adapters`, its adapters added in, in float32
    on the CPU, tied ones once: a checkpoint that needs no adapters."""
    adapted = {
        name: layer for name, layer in model.named_modules() if hasattr(layer, "get_delta_weight")
    }
    weights, seen = {}, set()
    for name, weight in model.state_dict().items():
        if ".lora_" in name or weight.data_ptr() in seen:
            continue
        seen.add(weight.data_ptr())
        layer, _, kind = name.partition(".base_layer.")
        if layer in adapted and kind == "weight":
            weight = weight.float() + adapted[layer].get_delta_weight(NAME)
        weights[f"{layer}.{kind}" if kind else name] = weight.float().cpu()
    return weights
