"""A decoded image to the bytes of a smaller one."""

from io import BytesIO

from PIL import Image

from utuning.data.decode import decode_rgb
from utuning.data.shrinking import QUALITY, shrunk_size

_JPEG_PIXELS = 65_500


def shrunk(image: Image.Image, data: bytes, shorter_side: int) -> bytes:
    """Resize the shorter side to so many pixels and encode as JPEG; the same bytes give the same bytes.

    Args:
        image: the upright RGB image.
        data: the bytes that it was decoded from; they are returned as they are where the shorter side is no longer
            than that, or where the new bytes would not be fewer.
        shorter_side: in pixels.
    """
    size = shrunk_size(*image.size, shorter_side)
    if size == image.size or max(size) > _JPEG_PIXELS:
        return data
    buffer = BytesIO()
    # The filter of most evaluations: pixels then differ from theirs by what JPEG loses and nothing else.
    image.resize(size, Image.Resampling.BICUBIC).save(buffer, "JPEG", quality=QUALITY)
    return min(data, buffer.getvalue(), key=len)


def read_shrunk(data: bytes, path: str, shorter_side: int) -> bytes:
    """Do the same with encoded bytes alone."""
    return shrunk(decode_rgb(data, path), data, shorter_side)
