"""Divides the server fairly: it limits the waiting requests of each visitor and network address, and those per minute.

Gradio's queue has one length for all visitors, so one page or program could fill it. The limits are checked before
Gradio adds a request to the queue, and a refused visitor gets a message. Requests that are not queued, such as uploads
and camera frames, are counted by :class:`LimitRate`.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import gradio as gr
from settings import Settings
from starlette.responses import JSONResponse

from efficienttam_hf.app.rates import Rate


class LimitRate:
    """ASGI middleware that limits the POST requests per minute of each network address.

    Args:
        app: the ASGI app to which requests are passed on.
        settings: the settings of the demo, with the limit.
    """

    def __init__(self, app: Callable, settings: Settings) -> None:
        self.app, self.rate = app, Rate(settings.address_requests_per_minute)

    async def __call__(self, scope: Any, receive: Any, send: Any) -> None:
        """Pass a request on, or answer it with status 429 and the time to wait."""
        if scope["type"] == "http" and scope["method"] == "POST":
            seconds = self.rate.wait((scope.get("client") or (None,))[0])
            if seconds:
                said = _too_many(self.rate, "your network", seconds)
                headers = {"Retry-After": str(math.ceil(seconds))}
                await JSONResponse({"detail": said, "error": said}, 429, headers)(scope, receive, send)
                return
        await self.app(scope, receive, send)


def _too_many(rate: Rate, whom: str, seconds: float) -> str:
    """Return the message for a visitor who made too many requests per minute."""
    return f"More than {rate.per_minute} requests a minute came from {whom}. Try again in {math.ceil(seconds)} s."


def share_queue(demo: gr.Blocks, settings: Settings) -> None:
    """Set the length of the queue of `demo`, and its limits of requests.

    Args:
        demo: the app.
        settings: the settings of the demo, with the limits.
    """
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

    vars(queue)["push"] = push_if_allowed  # replaces the method of this queue only


def _refusal(events: list[Any], session: str | None, address: str | None, settings: Settings) -> str:
    """Return the reason why a request is refused, or '' if it is accepted.

    Args:
        events: the requests that wait or run.
        session: the session hash of the visitor.
        address: the network address of the visitor, if it is known.
        settings: the settings of the demo, with the limits.
    """
    unfinished = [event for event in events if event.alive]
    if sum(event.session_hash == session for event in unfinished) >= settings.requests_per_visitor:
        return f"{settings.requests_per_visitor} of your requests are waiting already. Wait until one is answered."
    if address is not None:
        from_there = sum(_address(event.request) == address for event in unfinished)
        if from_there >= settings.requests_per_address:
            return f"{settings.requests_per_address} requests from your network are waiting already. Try again soon."
    return ""


def _address(request: Any) -> str | None:
    """Return the network address of a request, if it is known."""
    client = getattr(request, "client", None)
    return getattr(client, "host", None)
