"""States of random generators in JSON's types and tensors, for checkpoints: a generator that is given
the state of another draws what that one would have drawn."""

import random
from random import Random

import numpy as np
import torch


def seeded_generator(seed: str) -> torch.Generator:
    """torch's generator on the CPU, for a stream that a text names."""
    return torch.Generator().manual_seed(Random(seed).getrandbits(63))


def random_state(rng: Random | torch.Generator) -> list | torch.Tensor:
    """Of one of Python's or of torch's generators."""
    if isinstance(rng, torch.Generator):
        return rng.get_state()
    version, words, gauss = rng.getstate()
    return [version, list(words), gauss]


def set_random_state(rng: Random | torch.Generator, state: list | torch.Tensor) -> None:
    """Give a generator what `random_state` took."""
    if isinstance(rng, torch.Generator):
        rng.set_state(state)
        return
    version, words, gauss = state
    rng.setstate((version, tuple(words), gauss))


def global_states() -> dict:
    """Of the generators that libraries share: Python's, numpy's, torch's on the CPU and on each GPU."""
    name, words, position, has_gauss, gauss = np.random.get_state()
    return {
        "python": random_state(random),
        "numpy": [name, words.tolist(), position, has_gauss, gauss],
        "torch": torch.get_rng_state(),
        "cuda": dict(enumerate(torch.cuda.get_rng_state_all()))
        if torch.cuda.is_available()
        else {},
    }


def set_global_states(states: dict) -> None:
    """Give them what `global_states` took; a GPU that was not there then keeps its own."""
    set_random_state(random, states["python"])
    np.random.set_state(tuple(states["numpy"]))
    torch.set_rng_state(states["torch"])
    for device, state in states["cuda"].items():
        if int(device) < torch.cuda.device_count():
            torch.cuda.set_rng_state(state, int(device))
