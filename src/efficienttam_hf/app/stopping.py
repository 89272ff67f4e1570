"""Treats SIGTERM like Ctrl-C, so that a command keeps its results when it is asked to end.

Schedulers, containers and `kill` send SIGTERM, which by default ends a process at once. Inside `terminable`, it raises
`Terminated` in the main thread instead. `Terminated` is a `KeyboardInterrupt`, so code that keeps results after a
Ctrl-C also keeps them after a SIGTERM. Only the message and the exit code differ.
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
    """Inside this context, SIGTERM raises `Terminated`. It has no effect outside the main thread."""
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
    """The exit code of a process that a signal ended: 130 after Ctrl-C, 143 after SIGTERM."""
    return 128 + (signal.SIGTERM if isinstance(stop, Terminated) else signal.SIGINT)


def stopped_by(stop: KeyboardInterrupt) -> str:
    """The name of the signal that stopped the process, for a message."""
    return "SIGTERM" if isinstance(stop, Terminated) else "Ctrl-C"
