"""Parts of the server without HTTP: batches, canaries, requests, settings, aliases."""

import asyncio
import json
import selectors
from collections.abc import Callable, Coroutine, Sequence
from dataclasses import dataclass
from typing import Any, TypeVar

import hypothesis.strategies as st
import pytest
from hypothesis import given, settings

from pipelines.serving.batching import Batcher
from pipelines.serving.canary import Canary, parse_canary
from pipelines.serving.failures import RequestError, ServingError
from pipelines.serving.images import image_input
from pipelines.serving.requests import from_form, from_json
from pipelines.serving.settings import BOUNDS, Settings
from pipelines.serving.sources import check_name
from tests.serving import frozen, photo, text64

T = TypeVar("T")


class Jumping(selectors.DefaultSelector):
    """Where an event loop would sleep, its clock jumps: seconds are counted and not spent."""

    now = 0.0

    def select(self, timeout: float | None = None) -> list[Any]:
        found = super().select(0 if timeout is not None else None)
        if not found and timeout is not None:
            self.now += timeout
        return found


class JumpingLoop(asyncio.SelectorEventLoop):
    def __init__(self) -> None:
        self._jumping = Jumping()
        super().__init__(self._jumping)

    def time(self) -> float:
        return self._jumping.now

    def run_in_executor(self, executor: Any, work: Callable[..., Any], *args: Any) -> "asyncio.Future[Any]":
        """At once: what runs takes no time on this clock."""
        done = self.create_future()
        try:
            done.set_result(work(*args))
        except Exception as error:
            done.set_exception(error)
        return done


def jump(work: Coroutine[Any, Any, T]) -> T:
    with asyncio.Runner(loop_factory=JumpingLoop) as runner:
        return runner.run(work)


@dataclass(frozen=True)
class Rows:
    number: int
    num_rows: int = 1


Batches = list[list[Rows]]


def batcher(batches: Batches, **options: Any) -> "Batcher[Rows, int]":
    def run(asks: Sequence[Rows]) -> list[int]:
        batches.append(list(asks))
        return [10 * ask.number for ask in asks]

    return Batcher(run, **{"max_batch": 8, "max_wait_s": 1.0, "max_queue": 100, **options})


# Batches


@settings(max_examples=60, deadline=None)
@given(
    st.lists(st.tuples(st.integers(1, 8), st.sampled_from([0.0, 0.3, 0.7, 2.0])), min_size=1, max_size=12),
    st.integers(8, 12),
)
def test_every_ask_is_answered_in_order_in_batches_that_fit_and_in_time(
    arrivals: list[tuple[int, float]], max_batch: int
) -> None:
    batches: Batches = []
    waited: list[float] = []

    async def one(it: "Batcher[Rows, int]", ask: Rows) -> int:
        started = asyncio.get_running_loop().time()
        (answer,) = it.submit([ask])
        found = await answer
        waited.append(asyncio.get_running_loop().time() - started)
        return found

    async def work() -> list[int]:
        it = batcher(batches, max_batch=max_batch)
        it.start()
        tasks = []
        for number, (rows, pause) in enumerate(arrivals):
            tasks.append(asyncio.ensure_future(one(it, Rows(number, rows))))
            await asyncio.sleep(pause)
        found = await asyncio.gather(*tasks)
        await it.close()
        return list(found)

    assert jump(work()) == [10 * number for number in range(len(arrivals))]
    assert [ask.number for batch in batches for ask in batch] == list(range(len(arrivals)))
    assert all(sum(ask.num_rows for ask in batch) <= max_batch for batch in batches)
    assert max(waited) <= 1.0 + 1e-6


def test_a_full_batch_does_not_wait_and_a_lone_row_waits_for_the_bound() -> None:
    async def work(num: int) -> float:
        it = batcher([], max_batch=4, max_wait_s=3600.0)
        it.start()
        await asyncio.gather(*it.submit([Rows(number) for number in range(num)]))
        ended = asyncio.get_running_loop().time()
        await it.close()
        return ended

    assert jump(work(4)) == 0
    assert jump(work(1)) == pytest.approx(3600)


def test_a_full_queue_refuses_all_or_nothing_and_says_when_to_come_again() -> None:
    async def work() -> None:
        it = batcher([], max_queue=10)
        with pytest.raises(RequestError, match="starting or ending"):
            it.submit([Rows(0)])
        it.start()
        first = it.submit([Rows(0, 8)])
        with pytest.raises(RequestError, match="8 predictions wait already; allowed: 10") as refused:
            it.submit([Rows(1, 1), Rows(2, 2)])
        assert (refused.value.status, refused.value.headers["Retry-After"]) == (429, "1")
        with pytest.raises(RequestError, match="asks for 11 predictions") as never:
            it.check_room(11)
        assert never.value.status == 413
        second = it.submit([Rows(3, 2)])
        assert await asyncio.gather(*first, *second) == [0, 30]
        await it.close()
        assert not it.running

    jump(work())


def test_a_bad_ask_harms_no_other() -> None:
    def run(asks: Sequence[Rows]) -> list[int]:
        if any(ask.number == 2 for ask in asks):
            raise RuntimeError("two")
        return [ask.number for ask in asks]

    async def work() -> list[Any]:
        it: Batcher[Rows, int] = Batcher(run, max_batch=8, max_wait_s=0.0, max_queue=10)
        it.start()
        found = await asyncio.gather(*it.submit([Rows(n) for n in range(4)]), return_exceptions=True)
        again = await asyncio.gather(*it.submit([Rows(7)]))
        await it.close()
        return [*found, *again]

    zero, one, two, three, seven = jump(work())
    assert (zero, one, three, seven) == (0, 1, 3, 7) and isinstance(two, RuntimeError)


# Canaries


@given(st.text(max_size=20), st.floats(0, 1), st.floats(0, 1))
def test_who_goes_to_a_canary_goes_to_a_larger_one_too(request_id: str, one: float, other: float) -> None:
    small, large = (Canary(tuner="a", alias="b", share=share) for share in sorted((one, other)))
    assert large.takes(request_id) or not small.takes(request_id)
    assert not Canary(tuner="a", alias="b", share=0).takes(request_id)
    assert Canary(tuner="a", alias="b", share=1).takes(request_id)


@pytest.mark.parametrize("share", [0.01, 0.1, 0.5])
def test_a_canary_has_its_share(share: float) -> None:
    canary, num = Canary(tuner="a", alias="b", share=share), 20_000
    taken = sum(canary.takes(str(number)) for number in range(num))
    assert abs(taken - share * num) < 5 * (share * (1 - share) * num) ** 0.5


def test_canaries_are_read_and_bad_ones_named() -> None:
    assert parse_canary("candidate=0.1", ["a"]) == Canary(tuner="a", alias="candidate", share=0.1)
    assert parse_canary("b@next=1", ["a", "b"]).slot == "b@next"
    for text, tuners, says in (
        ("candidate", ["a"], "give ALIAS=SHARE"),
        ("candidate=two", ["a"], "give ALIAS=SHARE"),
        ("candidate=1.5", ["a"], "give ALIAS=SHARE"),
        ("candidate=nan", ["a"], "give ALIAS=SHARE"),
        ("=0.1", ["a"], "give ALIAS=SHARE"),
        ("candidate=0.1", ["a", "b"], "names no tuner, and 2 are served"),
        ("candidate=0.1", [], "0 are served through an alias"),
        ("c@candidate=0.1", ["a"], "is of 'c'; served through an alias: a"),
    ):
        with pytest.raises(ServingError, match=says):
            parse_canary(text, tuners)


# Requests and settings


@given(st.lists(st.binary(max_size=50), min_size=1, max_size=4), st.integers(1, 1000))
def test_json_and_form_say_the_same(images: list[bytes], top: int) -> None:
    from_text = from_json(json.dumps({"images": text64(*images), "tuners": ["a", "b"], "top": top}).encode(), "7")
    from_fields = from_form(
        [(f"images[{n}]", image) for n, image in enumerate(images)], {"tuners": ["a", "b"], "top": [str(top)]}, "7"
    )
    assert from_text == from_fields


@given(st.binary(max_size=200))
def test_any_bytes_are_a_request_or_an_error(content: bytes) -> None:
    for read in (lambda: from_json(content), lambda: image_input(content, "it", frozen().preprocessing, 1000)):
        with pytest.raises(RequestError) as refused:
            read()
        assert 400 <= refused.value.status < 500


@pytest.mark.parametrize("kind", ["PNG", "JPEG", "WEBP", "BMP", "GIF", "TIFF"])
def test_images_of_the_formats_that_are_named_are_read(kind: str) -> None:
    assert image_input(photo(kind=kind), "it", frozen().preprocessing, 10_000).shape == (3, 32, 32)


@pytest.mark.parametrize("name", BOUNDS)
def test_settings_have_bounds(name: str) -> None:
    least, most = BOUNDS[name]
    for value in (least - 1, most + 1, float("nan")):
        with pytest.raises(ServingError, match=f"{name} is .*; allowed: "):
            Settings(**{name: value})


def test_settings_that_contradict_each_other_are_named() -> None:
    bad: list[tuple[dict[str, Any], str]] = [
        ({"max_queue": 3, "max_batch": 4}, "a queue has to hold a batch"),
        ({"allow_load": True}, "--models FOLDER"),
        ({"token": "short"}, "8 or more letters"),
        ({"token": "tökentökentöken"}, "8 or more letters"),
    ]
    for values, says in bad:
        with pytest.raises(ServingError, match=says):
            Settings(**values)
    assert "secretsecret" not in repr(Settings(token="secretsecret"))


@pytest.mark.parametrize("name", ["", ".", "..", "a/b", "/a", ".hidden", "all", "a" * 101, "a\n", "ä", "a b"])
def test_names_that_no_folder_should_have_are_refused(name: str) -> None:
    with pytest.raises(ServingError, match="cannot be a tuner's name"):
        check_name(name)
