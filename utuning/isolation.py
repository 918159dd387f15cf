"""Members fail alone: who raises is found and left out, and what does not fit into memory runs in smaller groups."""

from collections.abc import Callable, Sequence
from traceback import clear_frames

import torch

Work = Callable[[Sequence[int]], None]
OUT_OF_MEMORY = (
    "allocate memory",
    "out of memory",
    "not enough memory",
    "bad_alloc",
    "alloc_failed",
    "could not create a primitive",
)
"""What allocators and libraries below torch say, in letters of any case; their errors have no class of their own."""


class Isolation:
    """Runs work on groups of members, by their places in a cohort.

    Args:
        num_members: how many there are.
        num_groups: into how many groups they are divided at first.

    Attributes:
        groups: who runs together. Members that failed are in none; memory that ran out has halved some.
        failures: why a member failed, by its place.
    """

    def __init__(self, num_members: int, num_groups: int = 1) -> None:
        size = -(-num_members // num_groups)
        self.groups = [list(range(num_members))[at : at + size] for at in range(0, num_members, size)]
        self.failures: dict[int, str] = {}

    def run(self, work: Work, undo: Work) -> None:
        """Do the work of every group; `undo` takes back what an attempt left that failed.

        Raises what is nobody's own fault: an error that no member has alone.
        """
        for group in list(self.groups):
            self._attempt(group, work, undo)

    def fail(self, place: int, reason: str) -> None:
        """Leave a member out from now on."""
        self.failures.setdefault(place, reason)
        self.groups = [left for group in self.groups if (left := [each for each in group if each != place])]

    def _attempt(self, group: Sequence[int], work: Work, undo: Work) -> None:
        try:
            work(group)
        except Exception as error:
            clear_frames(error.__traceback__)  # they hold all that the attempt had in memory
            undo(group)
            if len(group) == 1:
                self.fail(group[0], describe(error))
            elif is_out_of_memory(error):
                self._halve(group, work, undo)
            else:
                self._without_culprits(group, error, work, undo)

    def _halve(self, group: Sequence[int], work: Work, undo: Work) -> None:
        if torch.cuda.is_available():
            torch.cuda.empty_cache()
        halves = _halves(group)
        self.groups = [each for each in self.groups if each != group] + halves
        for half in halves:
            self._attempt(half, work, undo)

    def _without_culprits(self, group: Sequence[int], error: Exception, work: Work, undo: Work) -> None:
        """Find who raises alone too; the others then run together as if these had never been there."""
        found = {place: reason for place in group if (reason := _alone(place, work, undo))}
        if not found:
            raise error
        for place, reason in found.items():
            self.fail(place, reason)
        if rest := [place for place in group if place not in found]:
            self._attempt(rest, work, undo)


def is_out_of_memory(error: Exception) -> bool:
    """Whether an error says that memory ran out, on a GPU or on the host."""
    said = str(error).lower()
    return isinstance(error, MemoryError | torch.OutOfMemoryError) or any(words in said for words in OUT_OF_MEMORY)


def describe(error: Exception) -> str:
    """An error in one line."""
    return f"{type(error).__name__}: {(str(error).strip() or 'no message').splitlines()[0]}"


def _alone(place: int, work: Work, undo: Work) -> str | None:
    try:
        work([place])
    except Exception as error:
        return describe(error)
    finally:
        undo([place])
    return None


def _halves(group: Sequence[int]) -> list[list[int]]:
    middle = (len(group) + 1) // 2
    return [list(half) for half in (group[:middle], group[middle:]) if half]
