"""Handles Ctrl-C and SIGTERM in training: the current step is finished and saved, then the run ends."""

from __future__ import annotations

import signal
import time
from typing import Any


__all__ = ["StopSignals"]


# A launcher may forward a Ctrl-C that the terminal has already sent to every process.
SAME_PRESS = 2.0


class StopSignals:
    """Within this context, Ctrl-C and SIGTERM only set `asked`. Another Ctrl-C, some time later, ends at once.

    The handlers are always set, even if Ctrl-C was ignored before, as in the background jobs of a shell.

    Attributes:
        asked: the time of the request to stop, in `time.monotonic()` seconds; `None` without a request.
        number: the first signal that requested a stop; 0 without a request.
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
