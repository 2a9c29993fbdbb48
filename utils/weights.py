"""Who has the weights of the model that several processes train.

`Replicated`: each process has all, with their gradient and moments. `Sharded`: each has its part of
every weight, of its gradient and of its moments, in float32; while the model runs, what a layer
needs is there as a whole, in the type that it computes in. torch's `fully_shard` does that.

Learner and trainer talk to either in the same words, and every process says the same ones in the same order:

    with weights.gathered():            any passes without gradient, as many as a process likes
    weights.run(score, batch)           one pass with gradient; `even` makes them equally many
    weights.add_gradients()
    weights.clip_gradient(1.0)
    weights.whole(tensor)               of a weight or moment, for a checkpoint; `own` is the way back
"""

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import replace
from typing import Any, TypeVar

import torch
from accelerate import PartialState
from torch import Tensor, nn
from torch.distributed.device_mesh import init_device_mesh
from torch.distributed.fsdp import FSDPModule, MixedPrecisionPolicy, fully_shard
from torch.distributed.tensor import DTensor, distribute_tensor

from custom_types import MiniBatch
from utils.processes import add_gradients, gather, same_weights

Found = TypeVar("Found")


class Replicated:
    """All weights in each process; the first one's count."""

    def __init__(self, model: nn.Module):
        same_weights(model)
        self.model = model
        self.trained = [weight for weight in model.parameters() if weight.requires_grad]

    @contextmanager
    def gathered(self) -> Iterator[None]:
        """All weights are whole in each process."""
        yield

    def run(self, function: Callable[..., Found], *args: Any) -> Found:
        """What a function of the model gives."""
        return function(*args)

    def even(self, batches: list[MiniBatch], idle: Callable[[], MiniBatch]) -> list[MiniBatch]:
        """This process's batches of an update; as many as each other process has, where that matters.
        idle: makes a batch to fill up with, which then counts for nothing."""
        return batches

    def add_gradients(self) -> None:
        """Make the gradient that of all processes' batches."""
        add_gradients(self.trained)

    def clip_gradient(self, most: float) -> float:
        """Shorten the gradient to this norm; the norm before."""
        return float(torch.nn.utils.clip_grad_norm_(self.trained, most))

    def whole(self, value: Any) -> Any:
        """A tensor as one process would have it."""
        return value

    def own(self, whole: Tensor, weight: nn.Parameter) -> Tensor:
        """What this process has of a tensor that belongs to a weight."""
        return whole

    def state_dict(self) -> dict[str, Tensor]:
        """The model's weights by name, whole; names of one weight have one tensor."""
        kept = self.model.state_dict(keep_vars=True)
        found = {id(tensor): self.whole(tensor) for tensor in kept.values()}
        return {name: found[id(tensor)] for name, tensor in kept.items()}


class Sharded(Replicated):
    """A part of each weight in each process.

    layers: the modules whose weights are gathered by themselves; those of the rest of the model, the
    embedding and the output layer first of all, are gathered together, in float32. narrow: the type that
    a layer's weights are gathered in, None for their own.
    """

    def __init__(self, model: nn.Module, layers: Sequence[nn.Module], narrow: torch.dtype | None):
        state = PartialState()
        same_weights(model)
        self.model = model
        mesh = init_device_mesh(state.device.type, (state.num_processes,))
        # What a layer is given stays as it is: the stream between layers is float32 under autocast too.
        narrowed = MixedPrecisionPolicy(
            param_dtype=narrow, reduce_dtype=torch.float32, cast_forward_inputs=False
        )
        wide = MixedPrecisionPolicy(cast_forward_inputs=False)
        for layer in layers:
            fully_shard(layer, mesh=mesh, mp_policy=narrowed)
        self._layers = layers
        self._whole = _Whole(model)
        fully_shard(self._whole, mesh=mesh, mp_policy=wide)
        self._parts = [one for one in self._whole.modules() if isinstance(one, FSDPModule)]
        for part in self._parts:
            part.set_gradient_divide_factor(1.0)  # a sum, as `add_gradients` makes,
            part.set_force_sum_reduction_for_comms(True)  # on a CPU too
        self._whole(lambda: None)  # the first that runs is taken for the whole
        self._reshard()
        self.trained = [weight for weight in model.parameters() if weight.requires_grad]

    def _reshard(self) -> None:
        for part in self._parts:
            part.reshard()

    @contextmanager
    def gathered(self) -> Iterator[None]:
        self._let_go_after_forward(False)
        try:
            for part in self._parts:
                part.unshard()
            yield
        finally:
            self._reshard()
            self._let_go_after_forward(True)

    def _let_go_after_forward(self, wanted: bool) -> None:
        """Whether a layer's weights are there only while it runs; those of the rest always stay."""
        for layer in self._layers:
            assert isinstance(layer, FSDPModule)
            layer.set_reshard_after_forward(wanted, recurse=False)

    def run(self, function: Callable[..., Found], *args: Any) -> Found:
        return self._whole(function, *args)

    def even(self, batches: list[MiniBatch], idle: Callable[[], MiniBatch]) -> list[MiniBatch]:
        missing = max(gather([len(batches)])) - len(batches)
        return [*batches, *(_uncounted(idle()) for _ in range(missing))]

    def add_gradients(self) -> None:
        """Each pass has added them already."""

    def clip_gradient(self, most: float) -> float:
        norm = torch.nn.utils.clip_grad_norm_(self.trained, most)
        return float(norm.full_tensor() if isinstance(norm, DTensor) else norm)

    def whole(self, value: Any) -> Any:
        """Of a tensor that is shared out, on the CPU of the first process; the others get none."""
        if not isinstance(value, DTensor):
            return value
        whole = value.full_tensor().detach()
        return whole.cpu() if PartialState().is_main_process else None

    def own(self, whole: Tensor, weight: nn.Parameter) -> Tensor:
        assert isinstance(weight, DTensor)
        mesh, placements = weight.device_mesh, weight.placements
        here = whole.to(weight.device)
        return distribute_tensor(here, mesh, placements, src_data_rank=None)


class _Whole(nn.Module):
    """A model as something that calls whatever it is given: then all that this touches runs inside it."""

    def __init__(self, model: nn.Module):
        super().__init__()
        self.model = model

    def forward(self, function: Callable[..., Found], *args: Any) -> Found:
        return function(*args)


def _uncounted(batch: MiniBatch) -> MiniBatch:
    """The same rows, of which none counts: their gradient is 0."""
    nothing = torch.zeros_like(batch.weights)
    return replace(batch, weights=nothing, counts=nothing)
