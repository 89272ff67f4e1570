"""Treats SIGTERM like Ctrl-C, so that a command keeps its results when it is asked to end.

Schedulers, containers and `kill` send SIGTERM, which by itself ends a process at once. While `terminable` lasts it
raises `Terminated` in the main thread instead. That is a `KeyboardInterrupt`, so all that keeps results after a Ctrl-C
keeps them after a SIGTERM; what differs is the word for it and the exit code.
"""

from __future__ import annotations

import signal
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from typing import NoReturn


class Terminated(KeyboardInterrupt):
    """The process was asked to end by SIGTERM."""


@contextmanager
def terminable() -> Iterator[None]:
    """While this lasts, SIGTERM raises `Terminated`. Does nothing outside the main thread, which alone gets signals."""
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    before = signal.signal(signal.SIGTERM, _raise)
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, before)


def _raise(*_: object) -> NoReturn:
    raise Terminated


def exit_code(stop: KeyboardInterrupt) -> int:
    """That of a process ended by the signal: 130 after Ctrl-C, 143 after SIGTERM."""
    return 128 + (signal.SIGTERM if isinstance(stop, Terminated) else signal.SIGINT)


def stopped_by(stop: KeyboardInterrupt) -> str:
    """What stopped the process, for a message."""
    return "SIGTERM" if isinstance(stop, Terminated) else "Ctrl-C"
