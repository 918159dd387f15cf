"""One shape for every message of this package."""

from utuning.errors import DataError


def fault(given: str, allowed: str, todo: str) -> DataError:
    """Build a `DataError` that says what was given, what is allowed and what to do next."""
    return DataError(f"{given}. Allowed: {allowed}. Next: {todo}.")


def shorten(names: list[str], limit: int = 5) -> str:
    """Join names for a message, cutting a long list short."""
    shown = ", ".join(repr(name) for name in names[:limit])
    more = len(names) - limit
    return f"{shown} and {more} more" if more > 0 else shown
