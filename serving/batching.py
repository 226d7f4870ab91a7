"""Requests that come at the same time are answered together: one pass through the model for all of them."""

from __future__ import annotations

import asyncio
import math
from collections import deque
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from time import perf_counter
from typing import Generic, TypeVar

Asked = TypeVar("Asked")
Answer = TypeVar("Answer")


class Overloaded(Exception):
    """More waits for an answer than may wait; `retry_after` seconds are likely to be enough."""

    def __init__(self, waiting: int, retry_after: int) -> None:
        super().__init__(f"{waiting} questions are waiting already; ask again in {retry_after} s")
        self.retry_after = retry_after


class _Job(Generic[Asked, Answer]):
    def __init__(self, asked: Sequence[Asked], future: asyncio.Future[list[Answer]]) -> None:
        self.asked = asked
        self.future = future
        self.since = perf_counter()


class Batcher(Generic[Asked, Answer]):
    """Gathers questions while a batch is under way, and hands them to `answer` in a thread of its own.

    A question that finds nothing under way is asked at once. Right after a batch of several, the next one
    waits until as many have come again, but no longer than the window. Of one event loop.
    """

    def __init__(
        self,
        answer: Callable[[list[Asked]], list[Answer]],
        *,
        window: float = 0.002,
        most: int = 64,
        waiting: int = 1024,
        threads: int = 1,
        observe: Callable[[int, float], None] = lambda size, waited: None,
    ) -> None:
        """Start idle.

        Args:
            answer: answers a list of questions, in their order; runs in a thread.
            window: seconds to wait at most for others; 0 waits never.
            most: questions of a batch; 1 answers each alone. One request is never divided.
            waiting: questions that may wait; more are refused.
            threads: batches at a time.
            observe: is told the size of each batch and how many seconds its oldest question waited.
        """
        self._answer = answer
        self._window = window
        self._most = most
        self._limit = waiting
        self._threads = threads
        self._observe = observe
        self._jobs: deque[_Job[Asked, Answer]] = deque()
        self._waiting = 0
        self._running = 0
        self._expected = 1  # questions of the latest batch: as many may soon come again
        self._timer: asyncio.TimerHandle | None = None
        self._seconds = 0.0  # of the latest batch
        self._pool: ThreadPoolExecutor | None = None

    async def ask(self, asked: Sequence[Asked]) -> list[Answer]:
        """The answers to the questions of one request, all from one batch.

        Raises:
            Overloaded: too many questions are waiting.
        """
        if self._waiting and self._waiting + len(asked) > self._limit:
            batches = math.ceil(self._waiting / self._most) / self._threads
            raise Overloaded(self._waiting, max(1, math.ceil(batches * self._seconds)))
        job = _Job[Asked, Answer](asked, asyncio.get_running_loop().create_future())
        self._jobs.append(job)
        self._waiting += len(asked)
        self._pump()
        return await job.future

    def close(self) -> None:
        """Let the threads go; a later question starts new ones."""
        if self._pool is not None:
            self._pool.shutdown(wait=False)
        self._pool = None

    def _pump(self) -> None:
        """Start what can be started now."""
        if self._timer is not None and self._waiting >= self._expected:
            self._timer.cancel()
            self._timer = None
        while self._jobs and self._running < self._threads and self._timer is None:
            self._start()

    def _start(self) -> None:
        batch: list[_Job[Asked, Answer]] = []
        size = 0
        while self._jobs and (not batch or size + len(self._jobs[0].asked) <= self._most):
            job = self._jobs.popleft()
            self._waiting -= len(job.asked)
            if not job.future.done():  # whoever asked has gone
                batch.append(job)
                size += len(job.asked)
        if batch:
            self._pool = self._pool or ThreadPoolExecutor(self._threads, thread_name_prefix="model")
            self._running += 1
            self._observe(size, perf_counter() - batch[0].since)
            loop = asyncio.get_running_loop()
            questions = [each for job in batch for each in job.asked]
            begun = perf_counter()
            done = loop.run_in_executor(self._pool, self._answer, questions)
            done.add_done_callback(lambda answers: self._finish(batch, size, begun, answers))

    def _finish(
        self, batch: list[_Job[Asked, Answer]], size: int, begun: float, done: asyncio.Future[list[Answer]]
    ) -> None:
        self._running -= 1
        self._expected = min(size, self._most)  # one request may be more
        self._seconds = perf_counter() - begun
        error = done.exception()
        answers = iter([] if error else done.result())
        for job in batch:
            if job.future.done():
                for _ in job.asked:
                    next(answers, None)
            elif error:
                job.future.set_exception(error)
            else:
                job.future.set_result([next(answers) for _ in job.asked])
        if self._window and self._waiting < self._expected > 1 and self._timer is None:
            self._timer = asyncio.get_running_loop().call_later(self._window, self._time_is_up)
        self._pump()

    def _time_is_up(self) -> None:
        self._timer = None
        self._expected = 1
        self._pump()
