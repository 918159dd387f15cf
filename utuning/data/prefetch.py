"""Running an iterator ahead of its consumer in a thread, and timing how long the consumer waits."""

import queue
import threading
import time
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from typing import TypeVar

T = TypeVar("T")


@dataclass(frozen=True, kw_only=True)
class _End:
    error: BaseException | None = None


def timed(items: Iterable[T], on_wait: Callable[[float], None]) -> Iterator[T]:
    """Yield the items of an iterable; `on_wait` is told the seconds that each one, and the end, let wait."""
    source = iter(items)
    while True:
        started = time.perf_counter()
        try:
            item = next(source)
        except StopIteration:
            return
        finally:
            on_wait(time.perf_counter() - started)
        yield item


def prefetch(items: Iterable[T], *, depth: int = 2) -> Iterator[T]:
    """Yield the items of an iterable that a thread computes up to `depth` ahead.

    Errors of the iterable are raised here. Dropping or closing the iterator ends the thread.
    """
    ready: queue.Queue[T | _End] = queue.Queue(depth)
    stop = threading.Event()
    thread = threading.Thread(target=_produce, args=(items, ready, stop), name="prefetch", daemon=True)
    thread.start()
    try:
        while True:
            item = ready.get()
            if not isinstance(item, _End):
                yield item
            elif item.error is not None:
                raise item.error
            else:
                return
    finally:
        stop.set()
        # An item taken away frees the place that the thread may be waiting for.
        while thread.is_alive():
            _drain(ready)
            thread.join(0.01)


def _drain(ready: "queue.Queue[T]") -> None:
    try:
        while True:
            ready.get_nowait()
    except queue.Empty:
        return


def _produce(items: Iterable[T], ready: "queue.Queue[T | _End]", stop: threading.Event) -> None:
    try:
        for item in items:
            ready.put(item)
            if stop.is_set():
                return
        ready.put(_End())
    except BaseException as error:
        ready.put(_End(error=error))
