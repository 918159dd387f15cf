"""Does a stored data set's val fit the protocol that a search names? Asked before anything is started."""

from collections.abc import Collection

from utuning.data.faults import fault
from utuning.data.info import DatasetInfo
from utuning.data.protocols import AS_GIVEN, VAL_FRACTION, VAL_SEED, drawn, find_protocol


def check_val(info: DatasetInfo, protocol: str) -> list[str]:
    """Compare where val came from with where the protocol takes it from.

    Returns:
        Notes on what makes numbers incomparable, though they can be measured.

    Raises:
        DataError: there is no val to select on, or it was drawn where the protocol takes published splits alone.
    """
    row, stored = find_protocol(protocol), f"The data set {info.name!r} at {str(info.path)!r}"
    held_out = f"{VAL_FRACTION:g} of train"
    if not info.counts.get("val"):
        raise fault(
            f"{stored} has no val, so that protocol {protocol!r} has nothing to select on",
            "data sets with the splits train and val",
            f"prepare it with protocol vpt, which makes {held_out} val, and name that protocol in the space",
        )
    if info.val == AS_GIVEN:
        return []
    if not row.holds_out and info.val:
        raise fault(
            f"{stored} has a val that is {info.val}, and protocol {protocol!r} takes the published splits as they are",
            "for this protocol a val that came with the data; for this data set the protocols vpt and trainval-final",
            "set protocol: vpt",
        )
    if not info.val:
        return [f"{stored} does not say where its val comes from; prepare it again, and it will"]
    wanted = drawn(VAL_FRACTION, VAL_SEED)
    if info.val == wanted:
        return []
    return [f"val is {info.val}; protocol {protocol} takes {wanted}: the numbers are not comparable with others' of it"]


def check_given_val(what: str, splits: Collection[str], protocol: str) -> None:
    """Refuse, before its images are read, a source that has no val under a protocol that draws none.

    Args:
        what: the source, as a message names it.
        splits: those that it has.
        protocol: a name of `protocols.PROTOCOLS`.

    Raises:
        DataError: nothing could be selected.
    """
    if not find_protocol(protocol).holds_out and "val" not in splits:
        raise fault(
            f"{what} comes without val, so that protocol {protocol!r} has nothing to select on",
            "for this data set the protocols vpt and trainval-final",
            "set protocol: vpt",
        )


def part_notes(info: DatasetInfo) -> list[str]:
    """Say of a part of a known data set that it is one."""
    known = f"a part of {info.reader}" if info.reader else "a part of a known data set"
    return [f"this is {known}: its numbers are not those of the whole"] if info.subset else []
