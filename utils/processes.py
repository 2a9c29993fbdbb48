"""What the processes of one run share. Only the model's passes are split: each process holds the same
buffers and draws the same numbers, because each sees all results, in the same order.

Every function here must be called by every process, as often and in the same order. With one process
they return what they are given.
"""

from collections.abc import Iterable, Sequence

import torch
from accelerate import PartialState
from accelerate.utils import gather_object


def share(items: Sequence) -> Sequence:
    """This process's stretch of `items`; the stretches differ in length by at most one."""
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
    """Give each process the sum of all processes' gradients; no gradient counts as zero."""
    if PartialState().num_processes > 1:
        for parameter in parameters:
            if parameter.grad is None:
                parameter.grad = torch.zeros_like(parameter)
            torch.distributed.all_reduce(parameter.grad)


@torch.no_grad()
def same_weights(model: torch.nn.Module) -> None:
    """Give each process the first one's weights."""
    if PartialState().num_processes > 1:
        for weight in model.state_dict().values():
            torch.distributed.broadcast(weight, src=0)
