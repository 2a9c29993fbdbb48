"""In which type the factors of matrix products are. Weights, sums and logits are float32 in any case."""

import torch

MIXED_PRECISION = {"float32": "no", "bfloat16": "bf16"}  # what accelerate calls them


def precision_on(kind: str, wanted: str, is_small: bool) -> str:
    """float32 or bfloat16 on a device of this kind, `cpu`, `cuda` or `mps`. wanted: either, or auto:
    bfloat16 where the device is known to multiply it faster than float32, and the model is large enough to
    notice."""
    if wanted != "auto":
        return wanted
    return "bfloat16" if not is_small and _multiplies_bfloat16(kind) else "float32"


def _multiplies_bfloat16(kind: str) -> bool:
    """Whether a device has instructions for it. On an AMD EPYC with AVX512-BF16, products of SmolLM2's
    shapes took a third to a fifth of the time. A CPU with AMX, or without either, was not tried, and of an
    Apple GPU, `mps`, nothing was measured."""
    if kind != "cpu":
        return kind == "cuda"
    probes = "_is_avx512_bf16_supported", "_is_amx_tile_supported"  # of torch 2.11 to 2.14
    return any(getattr(torch.cpu, probe, bool)() for probe in probes)


def leave_unwritten_memory() -> None:
    """Let tensors that are made without values have none. Where algorithms must be deterministic, torch
    else fills each with NaN first, so that a program which reads one does it the same each time; ours
    reads none. In a profile of a step of SmolLM2 it was 16% of the CPU's time."""
    torch.utils.deterministic.fill_uninitialized_memory = False  # type: ignore[attr-defined]
