"""A background thread that runs work in order: results are written while the model processes the next frame."""

from __future__ import annotations

import os
import queue
import sys
import threading
from collections.abc import Callable
from contextlib import suppress
from types import TracebackType
from typing import TYPE_CHECKING, Any


if TYPE_CHECKING:
    from typing import Self

# Seconds for which a thread may keep the interpreter while another waits for it. The model needs the interpreter after
# each of its thousands of operations: with Python's default of 5 ms, the background thread costs more than it saves.
SWITCH_INTERVAL = 2e-4
NICENESS = 10  # the model has priority if there are fewer cores than threads


class Background:
    """Runs calls one after another on a thread. Leaving the `with` block waits until all are done.

    If a call raises, the later ones are dropped, and the next `submit` or the end of the block raises its error. Ctrl-C
    at the end of the block does not interrupt the few waiting calls; `KeyboardInterrupt` is raised after them, unless
    another error is being raised.

    Args:
        waiting: largest number of waiting calls; `submit` blocks if there would be more.
    """

    def __init__(self, waiting: int = 2):
        self._calls: queue.SimpleQueue[tuple[Callable, tuple] | None] = queue.SimpleQueue()
        self._room = threading.Semaphore(waiting)
        self._error: BaseException | None = None
        self._thread = threading.Thread(target=self._run, name="efficienttam-background", daemon=True)

    def __enter__(self) -> Self:
        self._interval_before = sys.getswitchinterval()
        sys.setswitchinterval(SWITCH_INTERVAL)
        self._thread.start()
        return self

    def submit(self, call: Callable, *arguments: Any) -> None:
        """Run `call(*arguments)` after all calls that were submitted before.

        Raises:
            BaseException: the error of an earlier call.
        """
        self._room.acquire()
        if self._error is not None:
            raise self._error
        self._calls.put((call, arguments))

    def _run(self) -> None:
        if sys.platform == "linux":  # here, each thread has its own priority
            with suppress(OSError):  # if the system forbids it, tracking is only slower
                os.setpriority(os.PRIO_PROCESS, threading.get_native_id(), NICENESS)
        while (item := self._calls.get()) is not None:
            self._room.release()
            call, arguments = item
            try:
                if self._error is None:
                    call(*arguments)
            except BaseException as error:  # any error is raised in the caller's thread
                self._error = error

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        interrupt = None
        while self._thread.is_alive():
            try:
                self._calls.put(None)
                self._thread.join()
            except KeyboardInterrupt as stop:
                interrupt = stop
        sys.setswitchinterval(self._interval_before)
        if self._error is not None:
            raise self._error
        if interrupt is not None and error is None:
            raise interrupt
