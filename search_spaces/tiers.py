"""Tiers: named sets of overrides in a space, such as `smoke`, `small` and `paper`.

A tier is written as the overrides of a command line are, `train.epochs: 20`; it is applied first, so that a user's own
overrides have the last word. Without a tier a space is what the rest of its file says.
"""

import copy
from collections.abc import Mapping
from typing import Any

from utuning.errors import SpaceError, nearest

Tiers = Mapping[str, Mapping[str, Any]]


def take_tiers(raw: Any, title: str) -> Tiers:
    """Take the tiers out of a space's plain values.

    Raises:
        SpaceError: they are no mapping from names to mappings.
    """
    tiers = raw.pop("tiers", None) if isinstance(raw, dict) else None
    if tiers is None:
        return {}
    if not isinstance(tiers, dict) or not all(isinstance(changes, dict) for changes in tiers.values()):
        raise SpaceError(
            f"{title}: tiers is {tiers!r}; name sets of overrides, such as tiers: {{small: {{train.epochs: 20}}}}"
        )
    return {str(name): {str(key): value for key, value in changes.items()} for name, changes in tiers.items()}


def changes_of(tiers: Tiers, tier: str, title: str) -> dict[str, Any]:
    """What a tier changes, by dotted key.

    Raises:
        SpaceError: there is no such tier.
    """
    if tier not in tiers:
        has = nearest(tier, tiers) if tiers else "it has none"
        raise SpaceError(f"{title} has no tier {tier!r}; {has}")
    return copy.deepcopy(dict(tiers[tier]))
