"""What the C library does with memory that the process has freed."""

import ctypes
import sys

# Of glibc's malloc.h: how much free memory at the heap's end goes back, and how many blocks are maps.
M_TRIM_THRESHOLD, M_MMAP_MAX = -1, -4
MOST = 2**31 - 1


def keep_freed_memory() -> bool:
    """Let the process keep what it frees, for its next tensors; whether it does, as with glibc.

    By default each large tensor is a mapping of its own, whose pages the system fills with zeros when
    they are first written and takes back when it is freed: a quarter of SmolLM2's updates. A process
    stays as large as it was at its peak.
    """
    mallopt = getattr(ctypes.CDLL(None), "mallopt", None) if sys.platform == "linux" else None
    return bool(mallopt and mallopt(M_MMAP_MAX, 0) and mallopt(M_TRIM_THRESHOLD, MOST))
