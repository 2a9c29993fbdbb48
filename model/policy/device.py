"""Where a policy runs. Decided here for training, evaluation and loading alike."""

import torch

from constants import AUTO
from model.flags import ArgumentError
from model.presets import is_small


def device_kind(wanted: str, language: str) -> str:
    """cpu, cuda or mps for a policy of a prompt language. wanted: one of them, or auto: cuda where torch
    finds it, unless the policy is one like `tiny`, and never mps. Raises ArgumentError for a device that is
    not there."""
    if wanted == AUTO:
        return "cuda" if torch.cuda.is_available() and not is_small(language) else "cpu"
    found = found_devices()
    if wanted not in found:
        raise ArgumentError(
            f"--device {wanted}: must be a device that torch finds here, which is {' or '.join(found)}"
        )
    return wanted


def found_devices() -> list[str]:
    """What torch finds on this machine: cpu, and perhaps cuda or mps."""
    there = {"cuda": torch.cuda.is_available(), "mps": torch.backends.mps.is_available()}
    return ["cpu", *(kind for kind, is_there in there.items() if is_there)]
