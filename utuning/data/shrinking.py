"""Storing images smaller than they came, so that each epoch has less to decode: the numbers alone."""

from utuning.data.faults import fault
from utuning.data.protocols import AS_GIVEN

SMALLEST = 32
"""Pixels of the shorter side; no backbone reads fewer."""
QUALITY = 95
"""Of the JPEGs that larger images become."""


def check_shorter_side(pixels: int | None) -> None:
    """Raise `DataError` for a size that leaves nothing to learn from."""
    if pixels is not None and pixels < SMALLEST:
        raise fault(
            f"shorter_side is {pixels}",
            f"{SMALLEST} pixels or more",
            "give what the backbone resizes to before it crops, such as 256 for an input of 224, or leave it out",
        )


def shrunk_size(width: int, height: int, shorter_side: int) -> tuple[int, int]:
    """Return the size in pixels to store: the ratio is kept to a pixel, and nothing becomes larger."""
    if min(width, height) <= shorter_side:
        return width, height
    # Rounded down as torchvision's Resize does, which then has nothing left to resize.
    longer = int(shorter_side * max(width, height) / min(width, height))
    return (shorter_side, longer) if width <= height else (longer, shorter_side)


def stored_as(shorter_side: int | None) -> str:
    """Say how a data set's images are stored."""
    if shorter_side is None:
        return AS_GIVEN
    return f"shorter side at most {shorter_side} px, JPEG quality {QUALITY} where resized"


def enlarged_note(shorter_side: int | None, resize: int) -> list[str]:
    """Say so where a backbone that resizes images to `resize` pixels would enlarge what was shrunk."""
    if shorter_side is None or shorter_side >= resize:
        return []
    return [
        f"images are stored with a shorter side of at most {shorter_side} px and the backbone reads them at {resize} px"
        ": they are enlarged; prepare them with a larger shorter side, or as they came"
    ]
