"""The law: exactly those fail who raise, and all others ran last in an attempt that succeeded, once."""

from collections.abc import Sequence

from hypothesis import given
from hypothesis import strategies as st

from utuning.isolation import Isolation

MAX_MEMBERS = 9
PLACES = st.sets(st.integers(0, MAX_MEMBERS - 1))


class Members:
    """Members that count the attempts that they passed and that were not taken back."""

    def __init__(self, num_members: int, room: int) -> None:
        self.passed = [0] * num_members
        self.raising: set[int] = set()
        self.room = room
        self.attempts: list[list[int]] = []

    def work(self, places: Sequence[int]) -> None:
        """Each passes in its turn, until one raises or memory runs out."""
        self.attempts.append(list(places))
        for turn, place in enumerate(places):
            if turn >= self.room:
                raise MemoryError
            if place in self.raising:
                raise RuntimeError(f"{place} broke")
            self.passed[place] += 1

    def undo(self, places: Sequence[int]) -> None:
        for place in places:
            self.passed[place] = 0


@given(
    num_members=st.integers(1, MAX_MEMBERS),
    rounds=st.lists(PLACES, min_size=1, max_size=3),
    num_groups=st.integers(1, MAX_MEMBERS + 1),
    room=st.integers(1, MAX_MEMBERS),
)
def test_exactly_those_fail_who_raise(num_members: int, rounds: list[set[int]], num_groups: int, room: int) -> None:
    members, isolation = Members(num_members, room), Isolation(num_members, num_groups)
    for raising in rounds:
        members.raising |= {place for place in raising if place < num_members}
        members.passed = [0] * num_members
        isolation.run(members.work, members.undo)
        living = [place for place in range(num_members) if place not in members.raising]
        assert isolation.failures == {place: f"RuntimeError: {place} broke" for place in members.raising}
        assert members.passed == [int(place in living) for place in range(num_members)]
        assert sorted(place for group in isolation.groups for place in group) == living
        assert all(len(group) <= room for group in isolation.groups)
    members.attempts.clear()
    isolation.run(members.work, members.undo)
    assert members.attempts == isolation.groups


@given(num_members=st.integers(1, 40), num_groups=st.integers(1, 45))
def test_groups_hold_everybody_in_order_and_are_no_more_than_asked_for(num_members: int, num_groups: int) -> None:
    groups = Isolation(num_members, num_groups).groups
    assert [place for group in groups for place in group] == list(range(num_members))
    assert len(groups) <= num_groups and all(groups)
    assert max(map(len, groups)) == -(-num_members // num_groups)


@given(num_members=st.integers(2, 40))
def test_memory_that_runs_out_once_halves_one_group_and_keeps_the_order(num_members: int) -> None:
    isolation, members = Isolation(num_members), Members(num_members, num_members - 1)
    isolation.run(members.work, members.undo)
    first, second = isolation.groups
    assert first + second == list(range(num_members)) and len(first) - len(second) in (0, 1)
    assert members.attempts == [first + second, first, second]
