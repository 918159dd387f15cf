"""Encoded images from strangers to the backbone's input: what they would take is checked before it is taken."""

import warnings
from io import BytesIO

from PIL import Image
from torch import Tensor

from pipelines.serving.failures import RequestError, shown
from utuning.data.preprocessing import Preprocessing
from utuning.data.transforms import decode_resize, eval_crop
from utuning.errors import DataError

FORMATS = ("BMP", "GIF", "JPEG", "PNG", "TIFF", "WEBP")
"""Pillow reads many more, some of them by starting other programs."""


def image_input(data: bytes, name: str, preprocessing: Preprocessing, max_pixels: int) -> Tensor:
    """The uint8 input (3, S, S) of an encoded image; `name` is what messages call it.

    Raises:
        RequestError: no image of a known format, a damaged one, or one with too many pixels.
    """
    width, height = _size(data, name)
    short, long = sorted((width, height))
    # A long strip has few pixels until its shorter side is enlarged.
    most = max(width * height, preprocessing.resize**2 * long // short)
    if most > max_pixels:
        raise RequestError(
            413,
            "too_many_pixels",
            f"image {shown(name)} has {width:,} x {height:,} pixels, and takes {most:,} with its shorter side at "
            f"{min(short, preprocessing.resize):,}; allowed: {max_pixels:,}; send a smaller one",
        )
    try:
        return eval_crop(decode_resize(data, preprocessing, name), preprocessing)
    except (DataError, RuntimeError, ValueError, MemoryError) as error:
        raise _unreadable(data, name, error.__cause__ or error) from error


def _size(data: bytes, name: str) -> tuple[int, int]:
    """Width and height as the header promises them; no pixel is decoded."""
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", Image.DecompressionBombWarning)
            with Image.open(BytesIO(data), formats=FORMATS) as image:
                width, height = image.size
    except Image.DecompressionBombError as error:
        raise RequestError(
            413, "too_many_pixels", f"image {shown(name)} is too large ({error}); send a smaller one"
        ) from error
    except Exception as error:  # decoders of broken files raise almost anything
        raise _unreadable(data, name, error) from error
    if min(width, height) < 1:
        raise _unreadable(data, name, ValueError("it has no pixels"))
    return width, height


def _unreadable(data: bytes, name: str, error: BaseException) -> RequestError:
    said = "" if isinstance(error, OSError) and "BytesIO" in str(error) else f": {str(error)[:200]}"
    return RequestError(
        422,
        "bad_image",
        f"image {shown(name)} ({len(data):,} bytes) cannot be decoded{said}; allowed: complete images as "
        f"{', '.join(FORMATS)}; send another file",
    )
