"""A share of the queue for everyone: how many requests of one visitor, and of one address, may wait at a time.

Gradio's queue has one length for all, so that a single page or program could fill it for everybody. The limits are
checked where Gradio takes a request, before it is queued; whoever is refused is told why.
"""

from __future__ import annotations

from typing import Any

import gradio as gr
from settings import Settings


def share_queue(demo: gr.Blocks, settings: Settings) -> None:
    """Give the queue of `demo` its length and its limits."""
    demo.queue(default_concurrency_limit=8, max_size=settings.queue_size)
    queue = demo._queue
    push = queue.push

    async def push_if_allowed(body: Any, request: Any, username: str | None) -> tuple[bool, Any, str]:
        refusal = _refusal(list(queue.event_ids_to_events.values()), body.session_hash, _address(request), settings)
        return (False, refusal, "queue_full") if refusal else await push(body=body, request=request, username=username)

    queue.push = push_if_allowed


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
