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


def resolve(ops: Sequence[str], depths: Depths, sites: Sequence[tuple[str, int]]) -> list[tuple[str, int]]:
    """List the (op kind, depth) sites of a placement, in the order of `sites`: that of a forward pass.

    A kind that only some of the blocks have is taken where it is.

    Raises:
        PlacementError: no op kind, one that the backbone has not, or none of it at these depths.
    """
    available = tuple(dict.fromkeys(kind for kind, _ in sites))
    if not ops:
        raise PlacementError(f"no op kind given: choose from {', '.join(available)}")
    for kind in ops:
        if kind not in available:
            raise PlacementError(f"op kind {kind!r} matches no site of this backbone; {nearest(kind, available)}")
    chosen = resolve_depths(depths, 1 + max(depth for _, depth in sites))
    found = [(kind, depth) for kind, depth in sites if kind in ops and depth in chosen]
    if not found:
        depths_there = sorted({depth for kind, depth in sites if kind in ops})
        raise PlacementError(
            f"{'+'.join(ops)} at depths {depths!r} matches no site; it stands at depths {depths_there}"
        )
    return found


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
