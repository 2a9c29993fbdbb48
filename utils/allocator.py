"""What is done with memory that the process has freed: by the C library, and by torch on a GPU. Loads no
torch: its allocator is told before that.
"""

import ctypes
import os
import sys
from collections.abc import MutableMapping

# Names and numbers of glibc's malloc.h: from how much free memory at the heap's end on it is given back to
# the system, and how many blocks may be mappings.
M_TRIM_THRESHOLD, M_MMAP_MAX = -1, -4
LARGEST_INT = 2**31 - 1

# By which torch's allocator is told; the first that is there decides, and torch 2.11 to 2.14 know all.
ALLOCATOR_NAMES = "PYTORCH_CUDA_ALLOC_CONF", "PYTORCH_HIP_ALLOC_CONF", "PYTORCH_ALLOC_CONF"


def keep_freed_memory() -> bool:
    """Let the process keep the memory that it frees, for its next tensors. Returns whether it will,
    which the C library decides: glibc does.

    By default each large tensor is a separate mapping. The system fills its pages with zeros when they
    are first written, and takes them back when the tensor is freed: a quarter of the time of SmolLM2's
    updates. With this the process stays as large as it was at its peak.
    """
    mallopt = getattr(ctypes.CDLL(None), "mallopt", None) if sys.platform == "linux" else None
    return bool(mallopt and mallopt(M_MMAP_MAX, 0) and mallopt(M_TRIM_THRESHOLD, LARGEST_INT))


def expand_segments(environment: MutableMapping[str, str] = os.environ) -> None:
    """Let torch's allocator on a GPU extend the pieces of memory that it has, unless the environment
    already says how it works. Has no effect after torch is loaded.

    By default a piece keeps its size, and what is free in several of them is of no use for one large
    tensor. A rollout and an update want tensors of other sizes each time: about 15% of the memory.
    """
    if not any(name in environment for name in ALLOCATOR_NAMES):
        environment["PYTORCH_ALLOC_CONF"] = "expandable_segments:True"
