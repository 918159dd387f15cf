"""What a server allows and how long it waits."""

from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal

from pipelines.serving.failures import ServingError

MAX_PIXELS = 178_956_970
"""Pillow itself refuses larger images."""
STORED = ("fp32", "fp16", "bf16")
BOUNDS: dict[str, tuple[float, float]] = {
    "max_batch": (1, 4096),
    "max_wait_ms": (0, 10_000),
    "max_queue": (1, 1_000_000),
    "max_body_bytes": (1, 1 << 32),
    "max_pixels": (1, MAX_PIXELS),
    "max_images": (1, 4096),
    "max_requests": (1, 100_000),
    "body_timeout_s": (0.01, 3600),
    "poll_s": (0.01, 86_400),
}


@dataclass(frozen=True, kw_only=True)
class Settings:
    """What a server allows.

    Args:
        max_batch: rows (an image for a tuner) that run together.
        max_wait_ms: longest time that a row waits for others to run with while the device is idle.
        max_queue: rows that may wait; what comes then is told to come again later.
        max_body_bytes: of one request.
        max_pixels: of one image, as it is and with its shorter side as the backbone reads it.
        max_images: of one request.
        max_requests: requests that are being read or answered at once.
        body_timeout_s: longest pause between two pieces of a request's body.
        poll_s: seconds between two looks at where aliases point.
        byte_budget: most bytes of all held tuners; the least recently used ones make room. None: no bound.
        storage: what held values are stored in.
        allow_load: whether clients may load and unload tuners.
        models: the folder whose bundles they may load.
        token: what clients have to show. None: nothing.
    """

    max_batch: int = 64
    max_wait_ms: float = 5.0
    max_queue: int = 1024
    max_body_bytes: int = 32 << 20
    max_pixels: int = 50_000_000
    max_images: int = 32
    max_requests: int = 64
    body_timeout_s: float = 20.0
    poll_s: float = 10.0
    byte_budget: int | None = None
    storage: Literal["fp32", "fp16", "bf16"] = "fp32"
    allow_load: bool = False
    models: Path | None = None
    token: str | None = field(default=None, repr=False)

    def __post_init__(self) -> None:
        """Check the values."""
        for name, (least, most) in BOUNDS.items():
            value = getattr(self, name)
            if not least <= value <= most:
                raise ServingError(f"{name} is {value:,}; allowed: {least:,} to {most:,}; give another number")
        if self.storage not in STORED:
            raise ServingError(f"storage is {self.storage!r}; allowed: {', '.join(STORED)}")
        if self.max_queue < self.max_batch:
            raise ServingError(
                f"max_queue is {self.max_queue} and max_batch {self.max_batch}; a queue has to hold a batch: give a "
                "longer queue, or smaller batches"
            )
        if self.allow_load and (self.models is None or not self.models.is_dir()):
            raise ServingError(
                f"loading is allowed, and the model folder is {str(self.models)!r}; name the folder whose bundles may "
                "be loaded: --models FOLDER"
            )
        if self.token is not None and (len(self.token) < 8 or not self.token.isascii() or not self.token.isprintable()):
            raise ServingError("the token is too short, or has characters that no header holds; give 8 or more letters")
