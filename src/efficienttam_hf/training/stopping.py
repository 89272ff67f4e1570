"""Handles Ctrl-C and SIGTERM in training: the current step is finished and saved, then the run ends."""

from __future__ import annotations

import signal
import time
from typing import Any


__all__ = ["StopSignals"]


# A launcher may pass on a Ctrl-C that the terminal has sent to every process already.
SAME_PRESS = 2.0


class StopSignals:
    """While this context lasts, Ctrl-C and SIGTERM only set `asked`. Another Ctrl-C, a while later, ends at once.

    Handlers are set whatever they were before, also where Ctrl-C is ignored, as it is in a shell's background jobs.

    Attributes:
        asked: when a stop was asked for, in `time.monotonic()` seconds; `None` if it was not.
        number: the signal that asked first, 0 if none did.
    """

    def __init__(self) -> None:
        self.asked: float | None = None
        self.number = 0

    def __enter__(self) -> StopSignals:
        self._before = {number: signal.signal(number, self._ask) for number in (signal.SIGINT, signal.SIGTERM)}
        return self

    def __exit__(self, *_: Any) -> None:
        for number, handler in self._before.items():
            signal.signal(number, handler)

    def _ask(self, number: int, _: Any) -> None:
        now = time.monotonic()
        if self.asked is not None and number == signal.SIGINT and now - self.asked > SAME_PRESS:
            raise KeyboardInterrupt
        if self.asked is None:
            self.asked, self.number = now, number
