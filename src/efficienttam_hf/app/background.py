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

# Seconds for which a thread may keep the interpreter while another waits for it. The model asks for it after each of
# its thousands of operations: with Python's 5 ms, what goes on beside it costs more time than it saves.
SWITCH_INTERVAL = 2e-4
NICENESS = 10  # the model goes first where there are fewer cores than threads


class Background:
    """Runs calls one after another on a thread. Leaving the `with` block waits until all are done.

    A call that raises is the last one: those after it are dropped, and its error is raised by the next `submit` or on
    leaving. Ctrl-C while leaving cuts nothing short, as what waits is little; it is raised when that is done, unless an
    error is on its way already.

    Args:
        waiting: how many calls may wait; `submit` blocks where one more would.
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
        """Have `call(*arguments)` run after what was submitted before.

        Raises:
            BaseException: what an earlier call raised.
        """
        self._room.acquire()
        if self._error is not None:
            raise self._error
        self._calls.put((call, arguments))

    def _run(self) -> None:
        if sys.platform == "linux":  # where a thread has a priority of its own
            with suppress(OSError):  # a system that forbids it only loses time
                os.setpriority(os.PRIO_PROCESS, threading.get_native_id(), NICENESS)
        while (item := self._calls.get()) is not None:
            self._room.release()
            call, arguments = item
            try:
                if self._error is None:
                    call(*arguments)
            except BaseException as error:  # the caller's, whatever it is
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
