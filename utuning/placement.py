"""Placement = op kinds x depths, as pure values: which op sites of a backbone a tuner takes."""

from collections.abc import Sequence

from utuning.configs import Depths
from utuning.errors import PlacementError, nearest

DEPTH_FORMS = "'all', 'first', 'last', 'first:K', 'last:K', or a list such as [0, 3, 5]"


def resolve_depths(depths: Depths, num_blocks: int) -> tuple[int, ...]:
    """Turn a depths value into sorted block indices in [0, num_blocks).

    Raises:
        PlacementError: an unknown form, a depth outside the backbone, or no depth at all.
    """
    chosen = _parse(depths, num_blocks) if isinstance(depths, str) else tuple(depths)
    outside = [depth for depth in chosen if not 0 <= depth < num_blocks]
    if outside or not chosen:
        raise PlacementError(
            f"depths {depths!r} match no block: this backbone has blocks 0 to {num_blocks - 1}; use {DEPTH_FORMS}"
        )
    return tuple(sorted(set(chosen)))


def resolve(ops: Sequence[str], depths: Depths, available: Sequence[str], num_blocks: int) -> list[tuple[str, int]]:
    """List the (op kind, depth) sites of a placement, in the order in which a forward pass meets them.

    Raises:
        PlacementError: no op kind, or one that the backbone has not.
    """
    if not ops:
        raise PlacementError(f"no op kind given: choose from {', '.join(available)}")
    for kind in ops:
        if kind not in available:
            raise PlacementError(f"op kind {kind!r} matches no site of this backbone; {nearest(kind, available)}")
    order = {kind: place for place, kind in enumerate(available)}
    return [
        (kind, depth)
        for depth in resolve_depths(depths, num_blocks)
        for kind in sorted(set(ops), key=order.__getitem__)
    ]


def _parse(depths: str, num_blocks: int) -> tuple[int, ...]:
    word, _, count = depths.partition(":")
    if word == "all" and not count:
        return tuple(range(num_blocks))
    if word in ("first", "last") and (not count or count.isdecimal()):
        number = int(count) if count else 1
        if number <= num_blocks:
            return tuple(range(number)) if word == "first" else tuple(range(num_blocks - number, num_blocks))
        return ()
    raise PlacementError(f"depths {depths!r} is not a form that is known; use {DEPTH_FORMS}")
