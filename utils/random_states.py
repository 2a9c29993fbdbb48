"""States of random generators, in JSON's types and tensors, for checkpoints: a generator that gets the
state of another draws what that one would have drawn."""

import random
from random import Random
from typing import Any

import numpy as np
import torch


def seeded_generator(seed: str) -> torch.Generator:
    """A generator of torch on the CPU whose numbers depend on a text."""
    return torch.Generator().manual_seed(Random(seed).getrandbits(63))


def random_state(rng: Random | torch.Generator) -> list | torch.Tensor:
    """The state of a generator, Python's or torch's."""
    return rng.get_state() if isinstance(rng, torch.Generator) else _as_list(rng.getstate())


def set_random_state(rng: Random | torch.Generator, state: Any) -> None:
    """Put a generator into a state that `random_state` gave."""
    if isinstance(rng, torch.Generator):
        rng.set_state(state)
    else:
        rng.setstate(_as_tuple(state))


def _as_list(state: tuple) -> list:
    """A state of Python's generator, in JSON's types."""
    version, words, gauss = state
    return [version, list(words), gauss]


def _as_tuple(state: list) -> tuple:
    version, words, gauss = state
    return version, tuple(words), gauss


def global_states() -> dict[str, Any]:
    """The states of the generators that libraries share: Python's, numpy's, torch's on the CPU and on each
    GPU."""
    numpy_state: Any = np.random.get_state()  # the tuple, not the dict that its type allows too
    name, words, position, has_gauss, gauss = numpy_state
    return {
        "python": _as_list(random.getstate()),
        "numpy": [name, words.tolist(), position, has_gauss, gauss],
        "torch": torch.get_rng_state(),
        "cuda": dict(enumerate(torch.cuda.get_rng_state_all()))
        if torch.cuda.is_available()
        else {},
    }


def set_global_states(states: dict[str, Any]) -> None:
    """Put them into the states that `global_states` gave; a GPU that was not there then keeps its own."""
    random.setstate(_as_tuple(states["python"]))
    np.random.set_state(tuple(states["numpy"]))
    torch.set_rng_state(states["torch"])
    for device, state in states["cuda"].items():
        if int(device) < torch.cuda.device_count():
            torch.cuda.set_rng_state(state, int(device))
