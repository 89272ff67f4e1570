"""Limits how many requests each client of a server may make in a minute."""

from __future__ import annotations

import time
from collections.abc import Callable


class Rate:
    """Limits the requests per minute of each client. The allowance is refilled continuously.

    Args:
        per_minute: the number of requests per minute, and at once.
        clock: a function that returns seconds that never decrease.
    """

    def __init__(self, per_minute: int, clock: Callable[[], float] = time.monotonic) -> None:
        self.per_minute, self._clock = per_minute, clock
        self._left: dict[str, tuple[float, float]] = {}  # remaining requests, and when they were counted
        self._swept = clock()

    def wait(self, who: str | None) -> float:
        """Return the seconds until `who` may make a request.

        If this is 0, the request is allowed now and is counted.

        Args:
            who: the name or address of the client; None is never limited.
        """
        if who is None:
            return 0
        now, a_second = self._clock(), self.per_minute / 60
        if now - self._swept > 60:  # whoever made no request for a minute has the full allowance again
            self._left = {one: (left, at) for one, (left, at) in self._left.items() if now - at <= 60}
            self._swept = now
        left, at = self._left.get(who, (self.per_minute, now))
        left = min(self.per_minute, left + (now - at) * a_second)
        allowed = left >= 1
        self._left[who] = (left - allowed, now)
        return 0 if allowed else (1 - left) / a_second

    def __len__(self) -> int:
        """Return the number of clients that are remembered."""
        return len(self._left)
