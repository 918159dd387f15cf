"""One shape for every message of this package."""

from collections.abc import Callable

from utuning.errors import DataError

Progress = Callable[[str, int, int], None]
"""Is told what is being done, how many images are done, and how many there are."""


def fault(given: str, allowed: str, todo: str, kind: type[DataError] = DataError) -> DataError:
    """Build an error that says what was given, what is allowed and what to do next."""
    return kind(f"{given}. Allowed: {allowed}. Next: {todo}.")


def shorten(names: list[str], limit: int = 5) -> str:
    """Join names for a message, cutting a long list short."""
    shown = ", ".join(repr(name) for name in names[:limit])
    more = len(names) - limit
    return f"{shown} and {more} more" if more > 0 else shown
