"""The worker thread of the HTTP service: turns, limits, back pressure and cancelling."""

from __future__ import annotations

import asyncio
import threading

import pytest


pytest.importorskip("fastapi", reason="the service needs the extra: pip install efficienttam-hf[serve]")

from efficienttam_hf.serving.errors import Busy  # noqa: E402
from efficienttam_hf.serving.worker import MOST_UNREAD, Worker  # noqa: E402


@pytest.fixture
def worker():
    worker = Worker(long_at_once=2, max_jobs=5)
    yield worker
    worker.close()
    assert not worker._thread.is_alive()


async def read(job):
    return [value async for value in job.values()]


def test_long_jobs_take_turns_and_short_ones_do_not_wait_for_their_end(worker):
    order = []

    def steps(name, count, gate=None):
        def run():
            if gate is not None:
                gate.wait(10)
            for number in range(count):
                order.append(name)
                yield number

        return run

    async def main():
        gate = threading.Event()
        jobs = [worker.submit(steps(name, 4, gate), is_long=True) for name in "abc"]
        short = worker.submit(steps("s", 1))
        await asyncio.sleep(0.05)
        assert jobs[2].position == 1, "two at once; the third waits"
        gate.set()
        return await asyncio.gather(*map(read, [*jobs, short]))

    *long, short = asyncio.run(main())
    assert long == [[0, 1, 2, 3]] * 3
    assert short == [0]
    assert order.index("s") <= 2
    assert "".join(order).replace("s", "")[:4] in ("abab", "baba")
    assert order.index("c") > max(order.index("a"), order.index("b"))


def test_a_job_pauses_while_its_reader_is_slow(worker):
    taken = []

    def steps():
        for number in range(100):
            taken.append(number)
            yield number

    async def main():
        job = worker.submit(steps)
        await asyncio.sleep(0.2)
        assert len(taken) == MOST_UNREAD
        other = await worker.submit(lambda: iter(["meanwhile"])).result()
        return other, await read(job)

    other, values = asyncio.run(main())
    assert other == "meanwhile"
    assert values == list(range(100))


def test_cancelling_closes_the_generator_and_errors_reach_the_reader(worker):
    closed = []

    def endless():
        try:
            while True:
                yield 0
        finally:
            closed.append(threading.current_thread().name)

    def broken():
        yield 1
        raise ValueError("damaged")

    async def main():
        job = worker.submit(endless, is_long=True)
        async for _ in job.values():
            break
        job.cancel()
        await job.ended()
        with pytest.raises(ValueError, match="damaged"):
            await read(worker.submit(broken))
        running = [worker.submit(endless, is_long=True) for _ in range(3)]
        running[2].cancel()  # it had not begun
        await running[2].ended()
        for one in running:
            one.cancel()
            await one.ended()

    asyncio.run(main())
    assert set(closed) == {"efficienttam-worker"}


def test_there_is_a_limit_to_what_waits_and_an_end(worker):
    gate = threading.Event()

    def blocked():
        gate.wait(10)
        yield 1

    async def main():
        jobs = [worker.submit(blocked) for _ in range(5)]
        with pytest.raises(Busy, match="5 requests run or wait"):
            worker.submit(blocked)
        gate.set()
        assert await asyncio.gather(*map(read, jobs)) == [[1]] * 5
        waits = worker.submit(lambda: iter(range(10**9)))
        await asyncio.to_thread(worker.close)
        await waits.ended()
        with pytest.raises(Busy, match="ending"):
            worker.submit(blocked)

    asyncio.run(main())
