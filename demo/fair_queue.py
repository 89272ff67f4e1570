"""A share of the server for everyone: how many requests of one visitor, and of one address, may wait at a time, and how
many each may make in a minute.

Gradio's queue has one length for all, so that a single page or program could fill it for everybody. The limits are
checked where Gradio takes a request, before it is queued; whoever is refused is told why. Requests that are not queued,
such as uploads and camera frames, are counted by :class:`LimitRate`.
"""

from __future__ import annotations

import math
import time
from collections.abc import Callable
from typing import Any

import gradio as gr
from settings import Settings
from starlette.responses import JSONResponse


class Rate:
    """How many requests each of many may make in a minute: so many at once, and again as time goes by.

    Args:
        per_minute: requests that one may make.
        clock: seconds that only grow.
    """

    def __init__(self, per_minute: int, clock: Callable[[], float] = time.monotonic) -> None:
        self.per_minute, self._clock = per_minute, clock
        self._left: dict[str, tuple[float, float]] = {}  # requests that are left to each, and when that was
        self._swept = clock()

    def wait(self, who: str | None) -> float:
        """Seconds until `who` may make a request; 0 if that is now, and then it counts. None is never refused."""
        if who is None:
            return 0
        now, a_second = self._clock(), self.per_minute / 60
        if now - self._swept > 60:  # by then all that was silent since has all its requests again
            self._left = {one: (left, at) for one, (left, at) in self._left.items() if now - at <= 60}
            self._swept = now
        left, at = self._left.get(who, (self.per_minute, now))
        left = min(self.per_minute, left + (now - at) * a_second)
        allowed = left >= 1
        self._left[who] = (left - allowed, now)
        return 0 if allowed else (1 - left) / a_second

    def __len__(self) -> int:
        """How many are remembered."""
        return len(self._left)


class LimitRate:
    """ASGI middleware: what one network address may ask for in a minute, all but what only reads."""

    def __init__(self, app: Callable, settings: Settings) -> None:
        self.app, self.rate = app, Rate(settings.address_requests_per_minute)

    async def __call__(self, scope: Any, receive: Any, send: Any) -> None:
        """Pass a request on, or answer it with 429 and when to come again."""
        if scope["type"] == "http" and scope["method"] == "POST":
            seconds = self.rate.wait((scope.get("client") or (None,))[0])
            if seconds:
                said = _too_many(self.rate, "your network", seconds)
                headers = {"Retry-After": str(math.ceil(seconds))}
                await JSONResponse({"detail": said, "error": said}, 429, headers)(scope, receive, send)
                return
        await self.app(scope, receive, send)


def _too_many(rate: Rate, whom: str, seconds: float) -> str:
    return f"More than {rate.per_minute} requests a minute came from {whom}. Go on in {math.ceil(seconds)} s."


def share_queue(demo: gr.Blocks, settings: Settings) -> None:
    """Give the queue of `demo` its length and its limits."""
    demo.queue(default_concurrency_limit=8, max_size=settings.queue_size)
    queue = demo._queue
    push = queue.push
    rate = Rate(settings.requests_per_minute)

    async def push_if_allowed(body: Any, request: Any, username: str | None) -> tuple[bool, Any, str]:
        seconds = rate.wait(body.session_hash)
        if seconds:
            return False, _too_many(rate, "you", seconds), "queue_full"
        refusal = _refusal(list(queue.event_ids_to_events.values()), body.session_hash, _address(request), settings)
        return (False, refusal, "queue_full") if refusal else await push(body=body, request=request, username=username)

    vars(queue)["push"] = push_if_allowed  # in place of the method, for this queue


def _refusal(events: list[Any], session: str | None, address: str | None, settings: Settings) -> str:
    """Why a request is not taken beside the `events` that wait or run; '' if it is."""
    unfinished = [event for event in events if event.alive]
    if sum(event.session_hash == session for event in unfinished) >= settings.requests_per_visitor:
        return f"{settings.requests_per_visitor} of your requests are waiting already. Wait until one is answered."
    if address is not None:
        from_there = sum(_address(event.request) == address for event in unfinished)
        if from_there >= settings.requests_per_address:
            return f"{settings.requests_per_address} requests from your network are waiting already. Try again soon."
    return ""


def _address(request: Any) -> str | None:
    client = getattr(request, "client", None)
    return getattr(client, "host", None)
