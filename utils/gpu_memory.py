"""How much memory a GPU has, and what torch's allocator has had of it since it was last asked."""

import torch

from constants import GIB


def card_memory() -> float | None:
    """GiB of this machine's GPU, None where there is none."""
    if not torch.cuda.is_available():
        return None
    return torch.cuda.get_device_properties(0).total_memory / GIB


def memory_metrics(device: torch.device) -> dict[str, float]:
    """Since the last call: GiB of the tensors at the moment at which there were most, GiB that the
    allocator had of the GPU at most, and how often it found no room, gave back all that was free, and
    asked again. Of a device that is no GPU nothing is known. Starts counting anew.
    """
    if device.type != "cuda":
        return {}
    stats = torch.cuda.memory_stats(device)
    torch.cuda.reset_peak_memory_stats(device)
    torch.cuda.reset_accumulated_memory_stats(device)  # the number of retries among them
    return {
        "memory/allocated_max": stats["allocated_bytes.all.peak"] / GIB,
        "memory/reserved_max": stats["reserved_bytes.all.peak"] / GIB,
        "memory/alloc_retries": float(stats["num_alloc_retries"]),
    }
