"""Items of many requests, run through a tower together."""

import asyncio
import collections
import time
from collections.abc import Callable
from concurrent.futures import Executor

import numpy as np

from convnext_keras.server.errors import ApiError


class Batcher:
    """Queue of one tower that combines waiting rows into batches, the oldest first.

    An item waits at most `wait_seconds` for others, and longer only while all streams are busy. Items of a cancelled
    request leave the queue.

    Args:
        run: Rows `(N, ...)` to vectors `(N, D)`.
        max_batch: Maximum number of rows at a time.
        wait_seconds: How long the first row waits for others.
        max_queue: Maximum number of rows that wait; more are refused.
        executor: Where `run` runs; both towers share one, since the model is one.
        observe: Function called with each batch's size, the wait of its first row, and its duration, in seconds.
        streams: Batches that run at a time.
    """

    def __init__(
        self,
        run: Callable[[np.ndarray], np.ndarray],
        max_batch: int,
        wait_seconds: float,
        max_queue: int,
        executor: Executor,
        on_batch: Callable[[int, float, float], None] = lambda size, waited, ran: None,
        streams: int = 1,
    ) -> None:
        self.run, self.max_batch, self.wait_seconds, self.max_queue = run, max_batch, wait_seconds, max_queue
        self.executor, self.observe = executor, on_batch
        self.queue: collections.deque[tuple[np.ndarray, asyncio.Future, float]] = collections.deque()
        self.not_empty = asyncio.Event()
        self.task: asyncio.Task | None = None
        self.slots = asyncio.Semaphore(streams)
        self.running: set[asyncio.Task] = set()

    def start(self) -> None:
        """Begins to work; call it in the event loop."""
        self.task = asyncio.create_task(self._loop())

    async def stop(self) -> None:
        """Ends the work when the queue is empty."""
        while self.is_alive and (self.queue or self.running):
            await asyncio.sleep(0.01)
        if self.task:
            self.task.cancel()
            await asyncio.gather(self.task, return_exceptions=True)

    @property
    def is_alive(self) -> bool:
        """Returns whether the work goes on."""
        return self.task is not None and not self.task.done()

    def __len__(self) -> int:
        return len(self.queue)

    async def __call__(self, rows: list[np.ndarray]) -> np.ndarray:
        """Returns vectors `(N, D)` of rows, in their order; many rows are queued a few batches at a time.

        Raises:
            ApiError: If the queue is full.
        """
        piece = 4 * self.max_batch
        parts = [await self._enqueue(rows[start : start + piece]) for start in range(0, len(rows), piece)]
        return np.concatenate(parts) if parts else np.zeros((0, 0), "float32")

    async def _enqueue(self, rows: list[np.ndarray]) -> np.ndarray:
        if len(self.queue) + len(rows) > self.max_queue:
            raise ApiError(429, "queue_full", "Too many requests wait. Try again in a moment.")
        loop = asyncio.get_running_loop()
        futures = [loop.create_future() for _ in rows]
        self.queue.extend((row, future, time.monotonic()) for row, future in zip(rows, futures, strict=True))
        self.not_empty.set()
        try:
            return np.stack([await future for future in futures])
        finally:
            for future in futures:
                future.cancel()

    async def _loop(self) -> None:
        while True:
            await self.slots.acquire()
            await self.not_empty.wait()
            if len(self.queue) < self.max_batch and time.monotonic() - self.queue[0][2] < self.wait_seconds:
                await asyncio.sleep(self.wait_seconds)
            task = asyncio.create_task(self._run(self._next_batch()))
            self.running.add(task)
            task.add_done_callback(self._on_done)

    def _on_done(self, task: asyncio.Task) -> None:
        self.running.discard(task)
        self.slots.release()
        if self.task and not task.cancelled() and task.exception():
            self.task.cancel()  # An error of this class: `is_alive` tells of it.

    def _next_batch(self) -> list[tuple[np.ndarray, asyncio.Future, float]]:
        batch = []
        while self.queue and len(batch) < self.max_batch:
            entry = self.queue.popleft()
            if not entry[1].done():
                batch.append(entry)
        if not self.queue:
            self.not_empty.clear()
        return batch

    async def _run(self, batch: list[tuple[np.ndarray, asyncio.Future, float]]) -> None:
        if not batch:  # All were cancelled.
            return
        start = time.monotonic()
        try:
            rows = np.stack([row for row, _, _ in batch])
            vectors = await asyncio.get_running_loop().run_in_executor(self.executor, self.run, rows)
        except Exception as error:  # A backend can raise anything. The client gets an error.
            for _, future, _ in batch:
                if not future.done():
                    future.set_exception(error)
            return
        for (_, future, _), vector in zip(batch, vectors, strict=True):
            if not future.done():
                future.set_result(vector)
        self.observe(len(batch), start - batch[0][2], time.monotonic() - start)
