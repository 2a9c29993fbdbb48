"""What a process decides before it loads torch, which looks at it once and takes seconds."""

import signal

from utils.allocator import expand_segments
from utils.threads import spare_neighbours


def settle() -> None:
    """How torch's allocator works on a GPU, and how threads wait, unless the environment already says so."""
    expand_segments()
    spare_neighbours()


def interrupts(*, raised: bool) -> None:
    """Whether Ctrl-C raises KeyboardInterrupt, or, while a command loads, ends it without a traceback.
    Where it is ignored, as behind nohup, it stays so."""
    if signal.getsignal(signal.SIGINT) != signal.SIG_IGN:
        signal.signal(signal.SIGINT, signal.default_int_handler if raised else signal.SIG_DFL)
