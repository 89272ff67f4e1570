"""The one thread that runs the model: jobs take turns on it, a step at a time.

A job is a generator. Tracking a video is a job with one step for each frame, and a click on an image is a job with one
step, so a click waits for a frame and not for a video. A limited number of long jobs, which hold a video and memories,
take turns; the others wait. A job pauses while its reader has not read its last values, so nothing piles up in memory
for a slow client. A cancelled job ends before its next step.
"""

from __future__ import annotations

import asyncio
import logging
import threading
from collections import deque
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import suppress
from typing import Any, Generic, TypeVar, cast

from .errors import Busy


logger = logging.getLogger(__name__)

T = TypeVar("T")

MOST_UNREAD = 16  # values that a job may be ahead of its reader
SECONDS_TO_END = 30.0  # for a step that runs while the worker is closed


class Job(Generic[T]):
    """Work on the worker's thread. Its values are read on the event loop that submitted it.

    Attributes:
        is_long: whether it waits until fewer than the allowed number of long jobs run.
    """

    def __init__(self, worker: Worker, start: Callable[[], Iterator[T]], is_long: bool):
        self.is_long = is_long
        self._worker = worker
        self._start = start
        self._steps: Iterator[T] | None = None
        self._loop = asyncio.get_running_loop()
        self._values: deque[T] = deque()
        self._arrived = asyncio.Event()
        self._ended = asyncio.Event()
        self._error: Exception | None = None
        self._unread = 0  # guarded by the worker's lock
        self._cancelled = False

    @property
    def has_ended(self) -> bool:
        """Whether the last step is done."""
        return self._ended.is_set()

    @property
    def position(self) -> int:
        """The place among the jobs that wait to begin, from 1; 0 if it has begun."""
        return self._worker.position(self)

    def cancel(self) -> None:
        """End the job before its next step. Does nothing if it has ended."""
        self._worker.cancel(self)

    async def ended(self) -> None:
        """Wait until the job has ended, for whatever reason."""
        await self._ended.wait()

    async def values(self, patience: float | None = None) -> AsyncIterator[T | None]:
        """Yield the values of the job in order, and `None` whenever there was none for `patience` seconds.

        If the reader stops, the job is cancelled.

        Raises:
            Exception: the error with which the job ended.
        """
        try:
            while True:
                while self._values:
                    value = self._values.popleft()
                    self._worker.was_read(self)
                    yield value
                if self.has_ended:
                    break
                self._arrived.clear()
                try:
                    await asyncio.wait_for(self._arrived.wait(), patience)
                except asyncio.TimeoutError:  # noqa: UP041 -- another class in Python 3.10
                    yield None
            if self._error is not None:
                raise self._error
        finally:
            self.cancel()

    async def result(self) -> T:
        """The value of a job that has one."""
        values = [value async for value in self.values()]
        if not values:
            raise Busy("The service is ending.")
        return cast(T, values[-1])

    # ------------------------------------------------------------------------------------- on the worker's thread

    def _step(self) -> bool:
        """Take the next step; whether the job has ended."""
        try:
            if self._cancelled:
                self._close()
                self._tell(self._finish, None)
                return True
            if self._steps is None:
                self._steps = self._start()
            self._tell(self._put, next(self._steps))
        except StopIteration:
            self._tell(self._finish, None)
            return True
        except Exception as error:  # noqa: BLE001 -- belongs to whoever reads the job
            self._tell(self._finish, error)
            return True
        return False

    def _close(self) -> None:
        close = getattr(self._steps, "close", None)
        if close is not None:
            close()

    def _tell(self, call: Callable[..., None], *arguments: Any) -> None:
        with suppress(RuntimeError):  # the loop is closed: nobody reads any more
            self._loop.call_soon_threadsafe(call, *arguments)

    # ------------------------------------------------------------------------------------------ on the event loop

    def _put(self, value: T) -> None:
        self._values.append(value)
        self._arrived.set()

    def _finish(self, error: Exception | None) -> None:
        self._error = error
        self._ended.set()
        self._arrived.set()


class Worker:
    """Runs jobs in turn on a thread of its own.

    Args:
        long_at_once: number of long jobs that take turns.
        max_jobs: number of jobs that run or wait.
    """

    def __init__(self, long_at_once: int, max_jobs: int):
        self._long_at_once, self._max_jobs = long_at_once, max_jobs
        self._turns: deque[Job[Any]] = deque()
        self._waiting: deque[Job[Any]] = deque()
        self._changed = threading.Condition()
        self._closed = False
        self._thread = threading.Thread(target=self._run, name="efficienttam-worker", daemon=True)
        self._thread.start()

    def submit(self, start: Callable[[], Iterator[T]], is_long: bool = False) -> Job[T]:
        """Add a job; call this on the event loop that reads its values.

        Args:
            start: a function that returns the generator of its steps, called on the worker's thread.

        Raises:
            Busy: if there are as many jobs as allowed.
        """
        job = Job(self, start, is_long)
        with self._changed:
            if self._closed:
                raise Busy("The service is ending.")
            if len(self._turns) + len(self._waiting) >= self._max_jobs:
                raise Busy(f"{self._max_jobs} requests run or wait already. Try again soon.")
            (self._waiting if is_long else self._turns).append(job)
            self._changed.notify_all()
        return job

    def position(self, job: Job[Any]) -> int:
        """The place of a job among those that wait to begin, from 1; 0 if it has begun."""
        with self._changed:
            return self._waiting.index(job) + 1 if job in self._waiting else 0

    def cancel(self, job: Job[Any]) -> None:
        """End a job before its next step."""
        with self._changed:
            job._cancelled = True
            self._changed.notify_all()

    def was_read(self, job: Job[Any]) -> None:
        """A value of a job was read."""
        with self._changed:
            job._unread -= 1
            self._changed.notify_all()

    def close(self) -> None:
        """Cancel all jobs and wait for the thread; a step that runs is finished first."""
        with self._changed:
            self._closed = True
            for job in (*self._turns, *self._waiting):
                job._cancelled = True
            self._changed.notify_all()
        self._thread.join(SECONDS_TO_END)

    def _run(self) -> None:
        while True:
            with self._changed:
                while (job := self._next()) is None:
                    if self._closed:
                        return
                    self._changed.wait()
                job._unread += 1
            if job._step():
                with self._changed:
                    self._turns.remove(job)

    def _next(self) -> Job[Any] | None:
        """The job whose turn it is, or `None` if none can take a step."""
        for job in [job for job in self._waiting if job._cancelled]:
            self._waiting.remove(job)
            self._turns.append(job)
        while self._waiting and sum(job.is_long for job in self._turns) < self._long_at_once:
            self._turns.append(self._waiting.popleft())
        for _ in range(len(self._turns)):
            job = self._turns[0]
            self._turns.rotate(-1)
            if job._cancelled or job._unread < MOST_UNREAD:
                return job
        return None
