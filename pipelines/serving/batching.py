"""Dynamic batches: what waits runs together, in one thread, and nothing waits longer than a bound.

While a batch runs, the next one gathers. An idle server waits for more at most `max_wait_s` after a row came; so low
load pays that much latency, and high load gets full batches.
"""

import asyncio
from collections import deque
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from dataclasses import dataclass
from math import ceil
from time import perf_counter
from typing import Generic, Protocol, TypeVar

from pipelines.serving.failures import RequestError


class Sized(Protocol):
    """Something that takes rows of a batch."""

    @property
    def num_rows(self) -> int:
        """How many."""


A = TypeVar("A", bound=Sized)
R = TypeVar("R")
Run = Callable[[Sequence[A]], Sequence[R]]


@dataclass(eq=False)
class Waiting(Generic[A, R]):
    """An ask, when it came, and where its answer goes."""

    ask: A
    since: float
    answer: "asyncio.Future[R]"


class Batcher(Generic[A, R]):
    """Runs asks in batches of at most `max_batch` rows.

    Args:
        run: answers asks, in their order; called in one thread.
        max_batch: rows of a batch; an ask has no more.
        max_wait_s: how long an idle server waits for more rows after one came.
        max_queue: rows that may wait.
        ran: is told rows and seconds of each batch.
    """

    def __init__(
        self,
        run: Run[A, R],
        *,
        max_batch: int,
        max_wait_s: float,
        max_queue: int,
        ran: Callable[[int, float], object] = lambda rows, seconds: None,
    ) -> None:
        self._run, self._ran = run, ran
        self._max_batch, self._max_wait_s, self._max_queue = max_batch, max_wait_s, max_queue
        self._queue: deque[Waiting[A, R]] = deque()
        self._thread = ThreadPoolExecutor(1, thread_name_prefix="inference")
        self._row_s = 0.0
        self._task: asyncio.Task[None] | None = None
        self._closing = False

    @property
    def num_waiting(self) -> int:
        """Rows that wait."""
        return sum(waiting.ask.num_rows for waiting in self._queue)

    @property
    def running(self) -> bool:
        """Whether it takes asks."""
        return self._task is not None and not self._task.done() and not self._closing

    def start(self) -> None:
        """Begin to run batches on the running event loop."""
        self._arrived = asyncio.Event()
        self._task = asyncio.get_running_loop().create_task(self._serve())

    async def close(self) -> None:
        """Answer what waits, then end."""
        self._closing = True
        if self._task is not None:
            self._arrived.set()
            await self._task
        self._thread.shutdown()

    def check_room(self, num_rows: int) -> None:
        """Check that so many more rows may wait.

        Raises:
            RequestError: they may not; the client is told when to come again.
        """
        if not self.running:
            raise RequestError(503, "closing", "the server is starting or ending; ask again in a moment", 1)
        waiting = self.num_waiting
        # What fits no queue at all would be told to come again for ever.
        if num_rows > self._max_queue:
            raise RequestError(
                413,
                "too_many_rows",
                f"the request asks for {num_rows:,} predictions; allowed: {self._max_queue:,}; send fewer images or "
                "name fewer tuners at once",
            )
        if waiting + num_rows > self._max_queue:
            after = max(1, ceil((waiting + num_rows - self._max_queue) * self._row_s))
            raise RequestError(
                429,
                "busy",
                f"{waiting:,} predictions wait already; allowed: {self._max_queue:,}; ask again in {after} s",
                after,
            )

    def submit(self, asks: Sequence[A]) -> "list[asyncio.Future[R]]":
        """Put asks into the queue, all or none.

        Raises:
            RequestError: they do not fit.
        """
        self.check_room(sum(ask.num_rows for ask in asks))
        loop = asyncio.get_running_loop()
        waiting = [Waiting[A, R](ask, loop.time(), loop.create_future()) for ask in asks]
        self._queue.extend(waiting)
        self._arrived.set()
        return [each.answer for each in waiting]

    async def _serve(self) -> None:
        while batch := await self._collect():
            rows, started = sum(each.ask.num_rows for each in batch), perf_counter()
            await self._answer(batch)
            seconds = perf_counter() - started
            self._row_s = 0.8 * self._row_s + 0.2 * seconds / rows if self._row_s else seconds / rows
            self._ran(rows, seconds)

    async def _collect(self) -> list[Waiting[A, R]]:
        """The next batch; empty when there is nothing left to do."""
        loop = asyncio.get_running_loop()
        batch: list[Waiting[A, R]] = []
        rows = 0
        while True:
            while self._queue and rows + self._queue[0].ask.num_rows <= self._max_batch:
                batch.append(self._queue.popleft())
                rows += batch[-1].ask.num_rows
            ends = batch[0].since + self._max_wait_s if batch else None
            full = bool(self._queue) or rows == self._max_batch
            if self._closing or full or (ends is not None and loop.time() >= ends):
                return batch
            self._arrived.clear()
            with suppress(TimeoutError):
                async with asyncio.timeout_at(ends):
                    await self._arrived.wait()

    async def _answer(self, batch: Sequence[Waiting[A, R]]) -> None:
        """Run a batch; where it fails as a whole, each ask alone, so that one bad ask harms no other."""
        loop = asyncio.get_running_loop()
        try:
            answers = await loop.run_in_executor(self._thread, self._run, [each.ask for each in batch])
        except Exception as error:
            if len(batch) > 1:
                for each in batch:
                    await self._answer([each])
            elif not batch[0].answer.done():
                batch[0].answer.set_exception(error)
            return
        for each, answer in zip(batch, answers, strict=True):
            if not each.answer.done():
                each.answer.set_result(answer)
