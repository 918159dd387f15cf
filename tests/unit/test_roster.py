"""Who trains in which round of a cohort: laws of its roster, on a clock that only a test moves."""

import asyncio
from collections.abc import Coroutine
from dataclasses import dataclass, field
from typing import Any, TypeVar

import pytest

from pipelines.cohorts.progress import PATH
from pipelines.cohorts.roster import ERROR, LEFT, Joining, Report, Roster, Round

T = TypeVar("T")
PATIENCE_S = 0.01
SETTLE_S = 0.005
EPOCHS = 9


@dataclass
class Clock:
    now: float = 100.0

    def __call__(self) -> float:
        return self.now


@dataclass
class Scene:
    """A roster, those that ask it, and the workers that do its rounds."""

    clock: Clock = field(default_factory=Clock)
    settle_s: float = 0.0

    def __post_init__(self) -> None:
        self.roster = Roster(patience_s=PATIENCE_S, settle_s=self.settle_s, clock=self.clock)

    async def ask(self, *seats: str, path: str | None = None, epochs: int = EPOCHS) -> list[asyncio.Task[Report]]:
        """Let each of these ask for an epoch."""
        trial = {"train": {"epochs": epochs}}
        joinings = [Joining(seat=seat, member_id=f"member {seat}", trial=trial, path=path) for seat in seats]
        asked = [asyncio.create_task(self.roster.next_epoch(joining)) for joining in joinings]
        await self.rest()
        return asked

    async def waiting(self) -> "asyncio.Task[Round | None]":
        """Let the workers wait for a round: it does not begin, however often they look."""
        task = asyncio.create_task(self.roster.next_round())
        await self.rest()
        assert not task.done()
        return task

    async def begun(self) -> Round:
        """The round that begins now."""
        return there(await self.roster.next_round())

    async def train(self, epoch: int, *seats: str) -> None:
        """End a round."""
        await self.roster.deliver({seat: report(seat, epoch) for seat in seats})

    async def round_of(self, *seats: str) -> list[asyncio.Task[Report]]:
        """Ask for a round of exactly these, and begin it."""
        asked = await self.ask(*seats)
        assert names(await self.begun()) == (set(seats), set(seats))
        return asked

    async def rest(self) -> None:
        """Let everybody do what they can while the clock stands still."""
        await asyncio.sleep(2 * PATIENCE_S)


def there(round_: Round | None) -> Round:
    assert round_ is not None
    return round_


def report(seat: str, epoch: int) -> Report:
    return {"epoch": epoch, PATH: f"{seat}/{epoch}"}


def names(round_: Round) -> tuple[set[str], set[str]]:
    """The seats of all members, and of those that train."""
    return {joining.seat for joining in round_.members}, set(round_.training)


def paths(round_: Round) -> dict[str, str | None]:
    return {joining.seat: joining.path for joining in round_.members}


def play(scene: Coroutine[Any, Any, T]) -> T:
    """Run a scene; one that hangs ends."""

    async def ending() -> T:
        return await asyncio.wait_for(scene, 60)

    return asyncio.run(ending())


def test_a_round_begins_once_everybody_with_a_seat_asks() -> None:
    async def scene() -> None:
        of = Scene()
        await of.round_of("a", "b", "c")
        await of.train(1, "a", "b", "c")
        await of.ask("a")
        waiting = await of.waiting()
        await of.ask("b")
        assert not waiting.done()
        await of.ask("c")
        assert names(there(await waiting)) == ({"a", "b", "c"}, {"a", "b", "c"})

    play(scene())


def test_while_nobody_asks_there_is_no_round() -> None:
    async def scene() -> None:
        of = Scene()
        waiting = await of.waiting()
        await of.ask("a")
        assert names(there(await waiting)) == ({"a"}, {"a"})
        await of.train(1, "a")
        of.clock.now += 1000 * PATIENCE_S
        await of.waiting()

    play(scene())


def test_who_comes_while_a_round_is_running_is_in_the_next() -> None:
    async def scene() -> None:
        of = Scene()
        await of.round_of("a")
        (newcomer,) = await of.ask("b")
        await of.train(1, "a")
        await of.rest()
        assert not newcomer.done()
        await of.ask("a")
        second = await of.begun()
        assert names(second) == ({"a", "b"}, {"a", "b"})
        assert paths(second) == {"a": "a/1", "b": None}

    play(scene())


def test_who_waited_through_a_long_round_does_not_begin_the_next_alone() -> None:
    async def scene() -> None:
        of = Scene()
        await of.round_of("a", "b")
        await of.ask("c")
        of.clock.now += 1000 * PATIENCE_S
        await of.train(1, "a", "b")
        waiting = await of.waiting()
        await of.ask("a", "b")
        assert names(there(await waiting)) == ({"a", "b", "c"}, {"a", "b", "c"})

    play(scene())


def test_who_does_not_ask_in_time_sits_out_and_keeps_its_seat() -> None:
    async def scene() -> None:
        of = Scene()
        await of.round_of("a", "b")
        await of.train(1, "a", "b")
        await of.ask("a")
        waiting = await of.waiting()
        of.clock.now += PATIENCE_S
        assert names(there(await waiting)) == ({"a", "b"}, {"a"})
        await of.train(2, "a")
        await of.ask("a", "b")
        third = await of.begun()
        assert names(third) == ({"a", "b"}, {"a", "b"})
        assert paths(third) == {"a": "a/2", "b": "b/1"}

    play(scene())


def test_patience_begins_with_the_first_who_asks() -> None:
    async def scene() -> None:
        of = Scene()
        await of.round_of("a", "b", "c")
        await of.train(1, "a", "b", "c")
        of.clock.now += 1000 * PATIENCE_S
        await of.ask("a")
        waiting = await of.waiting()
        of.clock.now += 0.75 * PATIENCE_S
        await of.ask("b")
        assert not waiting.done()
        of.clock.now += 0.75 * PATIENCE_S
        assert names(there(await waiting)) == ({"a", "b", "c"}, {"a", "b"})

    play(scene())


def test_each_report_reaches_who_asked_for_it() -> None:
    async def scene() -> None:
        of = Scene()
        first = await of.round_of("a", "b")
        await of.train(1, "b", "a")
        assert await asyncio.gather(*first) == [report("a", 1), report("b", 1)]
        second = await of.round_of("b", "a")
        await of.train(2, "a", "b")
        assert await asyncio.gather(*second) == [report("b", 2), report("a", 2)]

    play(scene())


def test_who_left_is_in_no_further_round_and_its_report_is_dropped() -> None:
    async def scene() -> None:
        of = Scene()
        left, stayed = await of.round_of("a", "b")
        await of.roster.leave("a")
        await of.train(1, "a", "b")
        assert await stayed == report("b", 1)
        assert ERROR in await left
        assert "a" not in of.roster and len(of.roster) == 1
        await of.round_of("b")

    play(scene())


def test_nobody_waits_for_who_left() -> None:
    async def scene() -> None:
        of = Scene()
        await of.round_of("a", "b")
        await of.train(1, "a", "b")
        await of.ask("a")
        waiting = await of.waiting()
        await of.roster.leave("b")
        assert names(there(await waiting)) == ({"a"}, {"a"})

    play(scene())


def test_leaving_without_a_seat_changes_nothing() -> None:
    async def scene() -> None:
        of = Scene()
        await of.ask("a")
        await of.roster.leave("b")
        assert names(await of.begun()) == ({"a"}, {"a"})

    play(scene())


@pytest.mark.parametrize("last", [{ERROR: "it broke"}, report("a", EPOCHS)])
def test_an_error_or_the_last_epoch_frees_the_seat(last: Report) -> None:
    async def scene() -> None:
        of = Scene()
        over, _ = await of.round_of("a", "b")
        await of.roster.deliver({"a": last, "b": report("b", 1)})
        assert await over == last
        assert "a" not in of.roster and "b" in of.roster
        await of.round_of("b")

    play(scene())


def test_who_fails_while_it_sits_out_loses_its_seat() -> None:
    async def scene() -> None:
        of = Scene()
        await of.round_of("a", "b")
        await of.train(1, "a", "b")
        await of.ask("a")
        of.clock.now += PATIENCE_S
        await of.begun()
        await of.roster.deliver({"a": report("a", 2), "b": {ERROR: "it cannot be built"}})
        assert "b" not in of.roster
        await of.round_of("a")

    play(scene())


def test_a_group_that_was_built_anew_is_told_the_last_saved_epochs() -> None:
    async def scene() -> None:
        of = Scene()
        await of.round_of("a")
        await of.train(4, "a")
        asked = [*await of.ask("a"), *await of.ask("b", path="x/7")]
        lost, again = await of.begun(), await of.begun()
        assert again == lost
        assert names(again) == ({"a", "b"}, {"a", "b"})
        assert paths(again) == {"a": "a/4", "b": "x/7"}
        await of.train(5, "a")
        await of.train(8, "b")
        assert await asyncio.gather(*asked) == [report("a", 5), report("b", 8)]

    play(scene())


def test_who_begins_with_a_saved_epoch_goes_on_from_its_own_afterwards() -> None:
    async def scene() -> None:
        of = Scene()
        await of.ask("a", path="x/3")
        assert paths(await of.begun()) == {"a": "x/3"}
        await of.train(4, "a")
        await of.ask("a", path=None)
        assert paths(await of.begun()) == {"a": "a/4"}

    play(scene())


def test_a_seat_that_is_taken_again_has_a_new_member() -> None:
    async def scene() -> None:
        of = Scene()
        await of.round_of("a")
        await of.train(2, "a")
        await of.roster.leave("a")
        (asked,) = await of.ask("a", path="x/1", epochs=2)
        (joining,) = (await of.begun()).members
        again = Joining(seat="a", member_id="member a", trial={"train": {"epochs": 2}}, path="x/1", number=1)
        assert joining == again
        await of.train(2, "a")
        assert await asked == report("a", 2)
        assert "a" not in of.roster

    play(scene())


@pytest.mark.parametrize(("error", "says"), [(None, "the cohort has ended"), ("its workers are lost", "are lost")])
def test_the_end_is_told_to_all_who_ask(error: str | None, says: str) -> None:
    async def scene() -> None:
        of = Scene()
        asked = await of.round_of("a", "b")
        await of.roster.close(error)
        for each in asked:
            with pytest.raises(RuntimeError, match=says):
                await each
        assert await of.roster.next_round() is None
        assert len(of.roster) == 0
        await of.train(1, "a", "b")
        late, *_ = await of.ask("c")
        with pytest.raises(RuntimeError, match="the cohort has ended"):
            await late

    play(scene())


@pytest.mark.parametrize("seats", [(), ("a",)])
def test_the_end_is_told_to_workers_that_wait(seats: tuple[str, ...]) -> None:
    async def scene() -> None:
        of = Scene(settle_s=SETTLE_S)
        await of.ask(*seats)
        waiting = await of.waiting()
        await of.roster.close()
        assert await waiting is None

    play(scene())


def test_those_who_come_and_go_shortly_after_each_other_make_one_round() -> None:
    async def scene() -> None:
        of = Scene(settle_s=SETTLE_S)
        await of.ask("a", "b", "c")
        of.clock.now += SETTLE_S
        assert names(await of.begun()) == ({"a", "b", "c"}, {"a", "b", "c"})
        of.clock.now += 1000 * SETTLE_S
        await of.train(EPOCHS, "a", "b")
        await of.train(1, "c")
        await of.ask("c")
        waiting = await of.waiting()
        for newcomer in ("d", "e"):
            of.clock.now += 0.75 * SETTLE_S
            await of.ask(newcomer)
            assert not waiting.done()
        of.clock.now += SETTLE_S
        assert names(there(await waiting)) == ({"c", "d", "e"}, {"c", "d", "e"})

    play(scene())


def test_another_member_takes_the_seat_of_the_one_that_has_it() -> None:
    """A population has copied another member into a trial, whose seat was not given up yet."""

    async def scene() -> None:
        of = Scene()
        await of.round_of("a")
        await of.train(2, "a")
        (old,) = await of.ask("a")
        copy = Joining(seat="a", member_id="a copy", trial={"train": {"epochs": EPOCHS}}, path="b/4")
        new = asyncio.create_task(of.roster.next_epoch(copy, known=4))
        await of.rest()
        assert await old == {ERROR: LEFT}
        (joining,) = (await of.begun()).members
        assert (joining.member_id, joining.path, joining.number) == ("a copy", "b/4", 1)
        await of.train(5, "a")
        assert await new == report("a", 5)

    play(scene())


def test_a_lost_report_is_given_again() -> None:
    async def scene() -> None:
        of = Scene()
        await of.round_of("a")
        await of.train(1, "a")
        again = Joining(seat="a", member_id="member a", trial={"train": {"epochs": 9}})
        assert await of.roster.next_epoch(again, known=0) == report("a", 1)

    play(scene())
