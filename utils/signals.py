"""A run that is asked to stop finishes its step first."""

import os
import signal

STOPPING = (signal.SIGINT, signal.SIGTERM)


class StopSignal:
    """A context manager: the first SIGINT or SIGTERM is remembered in `number`, 0 before, and the
    second one ends the process as if nobody listened."""

    def __init__(self):
        self.number = 0

    def __enter__(self) -> "StopSignal":
        self._before = {number: signal.signal(number, self._stop) for number in STOPPING}
        return self

    def __exit__(self, *error) -> None:
        for number, handler in self._before.items():
            signal.signal(number, handler)

    def _stop(self, number, frame) -> None:
        if self.number:
            signal.signal(number, signal.SIG_DFL)
            os.kill(os.getpid(), number)
        self.number = number
