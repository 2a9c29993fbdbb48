"""What a process decides before it loads torch, which looks at it once."""

from utils.allocator import expand_segments
from utils.threads import spare_neighbours


def settle() -> None:
    """How torch's allocator works on a GPU, and how threads wait, unless the environment already says so."""
    expand_segments()
    spare_neighbours()
