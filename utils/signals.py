"""A run that is asked to stop finishes its step first."""

import os
import signal
from types import FrameType

STOPPING = (signal.SIGINT, signal.SIGTERM)


class StopSignal:
    """A context manager that remembers the first SIGINT or SIGTERM in `number`, which is 0 before. The
    second one ends the process as if there were no context manager."""

    def __init__(self) -> None:
        self.number = 0

    def __enter__(self) -> "StopSignal":
        self._before = {number: signal.signal(number, self._stop) for number in STOPPING}
        return self

    def __exit__(self, *error: object) -> None:
        for number, handler in self._before.items():
            signal.signal(number, handler)

    def _stop(self, number: int, frame: FrameType | None) -> None:
        if self.number:
            signal.signal(number, signal.SIG_DFL)
            os.kill(os.getpid(), number)
        self.number = number
