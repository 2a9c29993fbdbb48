"""How the processes of one run work together. They share only the model's passes: each process has the same
buffers and draws the same numbers, because each sees all results in the same order.

Every process must call every function here, equally often and in the same order. If there is one process,
they return what they are given.
"""

from collections.abc import Iterable
from typing import Any, Protocol

import torch
from accelerate import PartialState
from accelerate.utils import gather_object


class Sliceable(Protocol):
    """A sequence, or a tensor by its first dimension."""

    def __len__(self) -> int: ...

    def __getitem__(self, stretch: slice, /) -> Any: ...


def share(items: Sliceable) -> Any:
    """This process's stretch of `items`; the stretches of two processes differ in length by one at most."""
    state = PartialState()
    start, end = (
        len(items) * rank // state.num_processes
        for rank in (state.process_index, state.process_index + 1)
    )
    return items[start:end]


def gather(items: list) -> list:
    """The items of all processes, the first process's first."""
    return gather_object(items) if PartialState().num_processes > 1 else items


def add_gradients(parameters: Iterable[torch.nn.Parameter]) -> None:
    """Give each process the sum of all processes' gradients; a missing gradient counts as zero."""
    if PartialState().num_processes > 1:
        for parameter in parameters:
            if parameter.grad is None:
                parameter.grad = torch.zeros_like(parameter)
            torch.distributed.all_reduce(parameter.grad)


@torch.no_grad()
def same_weights(model: torch.nn.Module) -> None:
    """Give each process the weights of the first one."""
    if PartialState().num_processes > 1:
        for weight in model.state_dict().values():
            torch.distributed.broadcast(weight, src=0)
