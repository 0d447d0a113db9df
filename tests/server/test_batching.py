"""Items of many requests, run together."""

import asyncio
import concurrent.futures
import threading
import time

import numpy as np
import pytest
from waiting import TIMEOUT

from convnext_keras.server.batching import Batcher
from convnext_keras.server.errors import ApiError

pytestmark = pytest.mark.any_backend


def batcher_of(run, **options):
    executor = concurrent.futures.ThreadPoolExecutor(1)
    return Batcher(run, **{"max_batch": 8, "wait_seconds": 0.002, "max_queue": 1000, "executor": executor} | options)


def test_results_belong_to_their_request():
    seen = []

    def run(rows):
        time.sleep(0.002)
        seen.extend(rows[:, 0].tolist())
        return rows * 2

    async def clients():
        batcher = batcher_of(run)
        batcher.start()
        random = np.random.default_rng(0)
        requests = [[np.array([number, part]) for part in range(random.integers(1, 20))] for number in range(60)]
        tasks = [asyncio.create_task(batcher(rows)) for rows in requests]
        await asyncio.sleep(0)
        cancelled = set(range(30, 60, 3))
        for number in cancelled:
            tasks[number].cancel()
        answers = await asyncio.gather(*tasks, return_exceptions=True)
        await batcher.stop()
        return requests, answers, cancelled

    requests, answers, cancelled = asyncio.run(clients())
    for number, (rows, answer) in enumerate(zip(requests, answers, strict=True)):
        if number in cancelled:
            assert isinstance(answer, asyncio.CancelledError)
        else:
            np.testing.assert_array_equal(answer, 2 * np.stack(rows))
    assert not cancelled & set(seen)


def test_full_queue_and_failing_model_raise():
    def fails(rows):
        raise RuntimeError("out of memory")

    async def requests():
        batcher = batcher_of(fails, max_queue=3)
        batcher.start()
        found = await asyncio.gather(*(batcher([np.zeros(1)] * 2) for _ in range(2)), return_exceptions=True)
        again = await asyncio.gather(batcher([np.zeros(1)]), return_exceptions=True)
        await batcher.stop()
        return [*found, *again]

    first, second, again = asyncio.run(requests())
    assert isinstance(first, RuntimeError)
    assert isinstance(second, ApiError)
    assert (second.status, second.code, second.headers["retry-after"]) == (429, "queue_full", "1")
    assert isinstance(again, RuntimeError)


def test_failed_batcher_reports_its_state():
    def observe(*facts):
        raise KeyError("no such metric")

    async def request():
        batcher = batcher_of(lambda rows: rows, on_batch=observe)
        batcher.start()
        before = batcher.is_alive
        await batcher([np.zeros(1)])
        await asyncio.wait([batcher.task], timeout=TIMEOUT)
        return before, batcher.is_alive

    assert asyncio.run(request()) == (True, False)


def test_streams_limit_concurrency():
    """Each batch waits for another one to run beside it; a third never does."""
    beside, running, most = threading.Barrier(2, timeout=TIMEOUT), [], []

    def run(rows):
        running.append(rows)
        most.append(len(running))
        beside.wait()
        time.sleep(0.05)
        running.pop()
        return rows * 2

    async def requests():
        executor = concurrent.futures.ThreadPoolExecutor(4)
        batcher = batcher_of(run, max_batch=2, executor=executor, streams=2)
        batcher.start()
        rows = [np.array([number]) for number in range(8)]
        found = await asyncio.gather(*(batcher(rows[start : start + 2]) for start in range(0, 8, 2)))
        await batcher.stop()
        return np.concatenate(found)

    np.testing.assert_array_equal(asyncio.run(requests())[:, 0], 2 * np.arange(8))
    assert max(most) == 2
