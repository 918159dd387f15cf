"""Decoded images kept in memory."""

import threading
from collections.abc import Callable

from torch import Tensor


class ImageCache:
    """Keeps the first images that fit into a number of bytes.

    Nothing is evicted: every epoch asks for all images once, in a new order, and replacing
    some by others would only lower the share that is found.
    """

    def __init__(self, max_bytes: int) -> None:
        """Start empty; `max_bytes` of 0 keeps nothing."""
        self._free = max_bytes
        self._images: dict[int, Tensor] = {}
        self._lock = threading.Lock()

    def get(self, key: int, make: Callable[[int], Tensor]) -> Tensor:
        """Return the image of a key, made if it is not kept; it must not be changed."""
        image = self._images.get(key)
        return self._keep(key, make(key)) if image is None else image

    def _keep(self, key: int, image: Tensor) -> Tensor:
        with self._lock:
            if image.nbytes <= self._free and key not in self._images:
                self._free -= image.nbytes
                self._images[key] = image
        return image
