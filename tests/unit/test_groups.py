"""Which group trains which cohort: every trial gets its epochs, in no more groups than there may be."""

import asyncio
from collections import Counter
from collections.abc import Coroutine
from dataclasses import dataclass, field
from typing import Any, TypeVar

import hypothesis.strategies as st
import pytest
from hypothesis import given, settings

from pipelines.cohorts.groups import Groups, Work
from pipelines.cohorts.progress import PATH
from pipelines.cohorts.roster import ERROR, Joining, Report, Roster

T = TypeVar("T")


@dataclass
class Cluster:
    """Groups whose workers ask as real ones do, and train in no time; started by hand, they wait for a test."""

    most: int = 1
    isolated: bool = False
    by_hand: bool = False
    max_members: int = 2
    took: dict[str, list[str]] = field(default_factory=dict)
    epochs: Counter[str] = field(default_factory=Counter)

    def __post_init__(self) -> None:
        patient = Roster if self.by_hand else lambda: Roster(patience_s=0.001, settle_s=0.0)
        self.groups = Groups("of", self.start, self.isolated, self.most, make_roster=patient)
        self.tasks: set[asyncio.Task[None]] = set()

    def start(self, name: str) -> None:
        assert len(self.groups.running) < self.most
        self.took[name] = []
        if not self.by_hand:
            self.tasks.add(asyncio.create_task(self.run(name)))

    async def run(self, name: str) -> None:
        """A group's workers."""
        assert self.groups.came(name)
        while (work := await self.groups.work(name)) is not None:
            self.took[name].append(work.cohort)
            cohort = self.groups.named(work.cohort)
            assert cohort is not None and work.lost == 0
            while (round_ := await cohort.roster.next_round()) is not None:
                self.epochs.update(round_.training)
                await cohort.roster.deliver({seat: report(seat, self.epochs[seat]) for seat in round_.training})
                await self.groups.arrange()
        await self.groups.ended(name)

    async def trial(self, seat: str, key: str, num_epochs: int = 1) -> None:
        """Ask for every epoch, one after another."""
        joining = Joining(seat=seat, member_id=seat, trial={"train": {"epochs": num_epochs}})
        for epoch in range(num_epochs):
            own_key = key + seat if self.isolated else key
            cohort = self.groups.seated(seat) or self.groups.seat(joining, own_key, self.max_members)
            await self.groups.arrange()
            found = await cohort.roster.next_epoch(joining, epoch)
            if ERROR in found:
                return  # it left
            assert found["epoch"] == epoch + 1

    async def asked(self, seat: str, key: str) -> asyncio.Task[None]:
        """A trial that has taken its seat."""
        task = asyncio.create_task(self.trial(seat, key))
        await asyncio.sleep(0.001)
        return task

    async def work(self, name: str) -> Work:
        """What a group is given now."""
        work = await asyncio.wait_for(self.groups.work(name), 1)
        assert work is not None
        return work

    async def leave(self, *seats: str) -> None:
        """End trials."""
        for seat in seats:
            cohort = self.groups.seated(seat)
            assert cohort is not None
            await cohort.roster.leave(seat)
        await self.groups.arrange()


def report(seat: str, epoch: int) -> Report:
    return {"epoch": epoch, PATH: f"{seat}/{epoch}"}


def play(scene: Coroutine[Any, Any, T]) -> T:
    """Run a scene; one that hangs ends."""

    async def ending() -> T:
        return await asyncio.wait_for(scene, 60)

    return asyncio.run(ending())


async def search(of: Cluster, trials: list[tuple[str, int]]) -> None:
    await asyncio.gather(*(of.trial(f"t{place}", key, epochs) for place, (key, epochs) in enumerate(trials)))
    assert of.epochs == Counter({f"t{place}": epochs for place, (_, epochs) in enumerate(trials)})
    assert len(of.groups.running) <= of.most
    await of.groups.close()
    assert of.groups.running == {}


TRIALS = st.lists(st.tuples(st.sampled_from("abc"), st.integers(1, 3)), min_size=1, max_size=6)


@settings(max_examples=50, deadline=None)
@given(TRIALS, st.integers(1, 3), st.integers(1, 3))
def test_all_trials_are_trained_by_groups_that_never_end_before_the_search(
    trials: list[tuple[str, int]], most: int, max_members: int
) -> None:
    of = Cluster(most=most, max_members=max_members)
    play(search(of, trials))
    assert 1 <= len(of.took) <= most
    cohorts = [cohort for took in of.took.values() for cohort in took]
    assert len(cohorts) == len(set(cohorts)) >= len({key for key, _ in trials})


@settings(max_examples=50, deadline=None)
@given(TRIALS, st.integers(1, 3))
def test_isolated_trials_have_a_group_each(trials: list[tuple[str, int]], most: int) -> None:
    of = Cluster(most=most, isolated=True)
    play(search(of, trials))
    assert [len(took) for took in of.took.values()] == [1] * len(trials)


def test_a_group_takes_the_next_cohort_when_nobody_needs_its_own() -> None:
    async def scene() -> None:
        of = Cluster(by_hand=True)
        of.groups.begin()
        (group,) = of.took
        await of.asked("t0", "a")
        first = await of.work(group)
        await of.asked("t1", "b")
        cohort = of.groups.named(first.cohort)
        assert cohort is not None and not cohort.roster.closed, "t0 needs it"
        await of.leave("t0")
        assert cohort.roster.closed and await cohort.roster.next_round() is None
        second = await of.work(group)
        assert second.cohort != first.cohort and of.groups.seated("t1") is of.groups.named(second.cohort)
        assert list(of.took) == [group]

    play(scene())


def test_a_cohort_without_members_stays_while_nobody_waits() -> None:
    async def scene() -> None:
        of = Cluster(by_hand=True)
        await of.asked("t0", "a")
        (group,) = of.took
        work = await of.work(group)
        await of.leave("t0")
        await of.asked("t1", "a")
        assert of.groups.seated("t1") is of.groups.named(work.cohort)

    play(scene())


def test_workers_that_were_lost_get_their_cohort_again() -> None:
    async def scene() -> None:
        of = Cluster(by_hand=True)
        await of.asked("t0", "a")
        (group,) = of.took
        found = [await of.work(group) for _ in range(3)]
        assert [work.lost for work in found] == [0, 1, 2]
        assert len({work.cohort for work in found}) == 1
        await of.asked("t1", "b")
        await of.leave("t0")
        after = await of.work(group)
        assert after.lost == 0 and after.cohort != found[0].cohort

    play(scene())


def test_a_worker_that_died_while_it_waited_takes_no_cohort_away() -> None:
    async def scene() -> None:
        of = Cluster(by_hand=True)
        of.groups.begin()
        (group,) = of.took
        dead, living = (asyncio.create_task(of.work(group)) for _ in range(2))
        await of.asked("t0", "a")
        assert (await dead).cohort == (await living).cohort
        assert list(of.took) == [group]

    play(scene())


def test_a_cohort_whose_members_left_before_it_had_a_group_is_dropped() -> None:
    async def scene() -> None:
        of = Cluster(by_hand=True)
        await of.asked("t0", "a")
        (group,) = of.took
        await of.work(group)
        await of.asked("t1", "b")
        await of.leave("t1")
        await of.leave("t0")
        (cohort,) = of.groups.cohorts
        assert cohort.key == "a" and not cohort.roster.closed

    play(scene())


@pytest.mark.parametrize("begun", [False, True])
def test_why_a_group_ended_is_told_to_its_cohort_or_to_the_next(begun: bool) -> None:
    async def scene() -> None:
        of = Cluster(by_hand=True)
        first, second = await of.asked("t0", "a"), await of.asked("t1", "b")
        (group,) = of.took
        if begun:
            await of.work(group)
        await of.groups.ended(group, "no room")
        with pytest.raises(RuntimeError, match="no room"):
            await first
        assert not second.done()
        _, another = of.took
        await of.work(another)
        assert of.groups.seated("t1") is not None

    play(scene())


def test_groups_that_are_not_known_have_nothing_to_do() -> None:
    async def scene() -> None:
        of = Cluster()
        assert not of.groups.came("gone")
        assert await of.groups.work("gone") is None

    play(scene())
