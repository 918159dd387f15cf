"""Encoded bytes to an upright RGB image."""

import contextlib
from io import BytesIO

import numpy as np
from PIL import Image, ImageOps, UnidentifiedImageError

from utuning.data.faults import fault

_DEEP_MODES = ("I", "F", "I;16", "I;16B", "I;16L", "I;16N")
_ORIENTATION = 0x0112


def decode_rgb(data: bytes, path: str = "<bytes>") -> Image.Image:
    """Decode an image of any mode Pillow reads to RGB, its EXIF orientation applied."""
    try:
        with Image.open(BytesIO(data)) as image:
            image.load()
            return _to_rgb(_upright(image))
    # Decoders of broken files raise almost anything: OSError, SyntaxError, struct.error, ...
    except Exception as error:
        # Pillow's own words name an address in memory.
        why = "its format is not known" if isinstance(error, UnidentifiedImageError) else error
        raise fault(
            f"The image {path!r} ({len(data)} bytes) cannot be decoded ({why})",
            "complete images in a format that Pillow reads (JPEG, PNG, WebP, BMP, GIF, TIFF)",
            "replace or remove the file, or prepare the data set with corrupt images skipped",
        ) from error


def is_plain_jpeg(data: bytes) -> bool:
    """Whether the header says upright RGB in a JPEG: any decoder of JPEG gives the same image for it."""
    with contextlib.suppress(Exception), Image.open(BytesIO(data)) as image:
        return image.format == "JPEG" and image.mode == "RGB" and image.getexif().get(_ORIENTATION, 1) == 1
    return False


def _upright(image: Image.Image) -> Image.Image:
    # A broken EXIF block says nothing about the pixels, which are worth keeping.
    with contextlib.suppress(Exception):
        return ImageOps.exif_transpose(image)
    return image


def _to_rgb(image: Image.Image) -> Image.Image:
    if image.mode in _DEEP_MODES:
        image = _to_eight_bit(image)
    if image.mode == "P" and "transparency" in image.info:
        image = image.convert("RGBA")
    return image if image.mode == "RGB" else image.convert("RGB")


def _to_eight_bit(image: Image.Image) -> Image.Image:
    # Pillow's own conversion clips deep grey values to white instead of scaling them.
    values = np.asarray(image).astype(np.float64)
    if image.mode.startswith("I;16") or values.max(initial=0.0) > 255:
        values = values / 257
    return Image.fromarray(np.clip(np.rint(values), 0, 255).astype(np.uint8))
