"""What the C library does with memory that the process has freed."""

import ctypes
import sys

# Names and numbers of glibc's malloc.h: from how much free memory at the heap's end on it is given back to
# the system, and how many blocks may be mappings.
M_TRIM_THRESHOLD, M_MMAP_MAX = -1, -4
LARGEST_INT = 2**31 - 1


def keep_freed_memory() -> bool:
    """Let the process keep the memory that it frees, for its next tensors. Returns whether it will,
    which the C library decides: glibc does.

    By default each large tensor is a separate mapping. The system fills its pages with zeros when they
    are first written, and takes them back when the tensor is freed: a quarter of the time of SmolLM2's
    updates. With this the process stays as large as it was at its peak.
    """
    mallopt = getattr(ctypes.CDLL(None), "mallopt", None) if sys.platform == "linux" else None
    return bool(mallopt and mallopt(M_MMAP_MAX, 0) and mallopt(M_TRIM_THRESHOLD, LARGEST_INT))
