"""What can go wrong for a user, one class a kind; the CLI prints the message alone, never a traceback.

Every message says what was given, what is allowed, and what to do next.
"""

from collections.abc import Iterable
from difflib import get_close_matches


class UTuningError(Exception):
    """An error that a user can act on."""


class ConfigError(UTuningError):
    """A configuration value that cannot be used."""


class SpaceError(ConfigError):
    """A search space that cannot be used; holds all its problems at once."""


class PlacementError(ConfigError):
    """A placement that matches no op site."""


class DataError(UTuningError):
    """Image data that is missing, damaged or inconsistent."""


class StoreError(DataError):
    """A place for data that cannot be reached or written to just now."""


class BackboneError(UTuningError):
    """A backbone that cannot be built, loaded or recognised."""


class BundleError(UTuningError):
    """A bundle that is damaged or does not fit its backbone."""


class PoolError(UTuningError):
    """What a pool of tuners cannot hold, or does not hold."""


class TrackingError(UTuningError):
    """A tracking store that cannot be reached, or does not hold what was asked for."""


class ClusterError(UTuningError):
    """A cluster profile or address that cannot be used."""


def nearest(given: str, allowed: Iterable[str]) -> str:
    """Say which allowed name is meant, if one is close, and which are allowed."""
    names = sorted(allowed)
    close = get_close_matches(given, names, n=1)
    hint = f"did you mean {close[0]!r}? " if close else ""
    return f"{hint}allowed: {', '.join(names)}"
