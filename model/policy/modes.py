"""A model that gives a token the same probability when it samples, when it is scored and when it is
trained.

Train mode is not that: it turns on dropout, skipped layers, noise in routers, whatever an architecture
has. So a policy stays in eval mode for good. transformers checkpoints activations in train mode alone,
which is why that is done here.
"""

from functools import partial

import torch
from torch.utils.checkpoint import checkpoint
from transformers.modeling_layers import GradientCheckpointingLayer


def recompute_activations(model) -> None:
    """Have each layer of a model keep its input alone for the backward pass and run a second time there:
    0.3 MB a token of a 3B model where it would be over 4."""
    layers = [one for one in model.modules() if isinstance(one, GradientCheckpointingLayer)]
    if not layers:
        return
    model.activation_checkpointing_enable({"use_reentrant": False})  # so that the model says so
    for layer in layers:
        layer.forward = partial(_recomputed, layer.forward)


def _recomputed(forward, *args, **kwargs):
    if not torch.is_grad_enabled():
        return forward(*args, **kwargs)
    return checkpoint(forward, *args, use_reentrant=False, **kwargs)
