"""What surrounds a beetle: ground, things in front of it, and light."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageDraw

Pixels = NDArray[np.float32]

# Two colours of each ground, and the grain of its noise as (rows, columns) of the coarse grid.
_GROUNDS = (
    ((206, 184, 142), (168, 142, 102), (16, 16)),
    ((74, 112, 52), (122, 156, 74), (4, 7)),
    ((96, 74, 56), (142, 114, 88), (5, 22)),
    ((58, 84, 60), (104, 122, 70), (12, 12)),
    ((126, 130, 134), (168, 170, 170), (9, 5)),
    ((120, 76, 44), (164, 112, 62), (6, 6)),
)


def ground(rng: np.random.Generator, size: int) -> Image.Image:
    """A patch of sand, leaf, bark, moss, slate or leaf litter, ``size`` by ``size`` pixels."""
    low, high, grain = _GROUNDS[int(rng.integers(len(_GROUNDS)))]
    if rng.uniform() < 0.5:
        grain = (grain[1], grain[0])
    coarse = _noise(rng, grain, size) * 0.75 + _noise(rng, (size // 2, size // 2), size) * 0.25
    shade = np.clip(coarse, 0, 1)[..., None]
    pixels = np.asarray(low, np.float32) * (1 - shade) + np.asarray(high, np.float32) * shade
    image = Image.fromarray(pixels.astype(np.uint8))
    if rng.uniform() < 0.5:
        _veins(ImageDraw.Draw(image, "RGBA"), rng, size)
    return image


def _noise(rng: np.random.Generator, grain: tuple[int, int], size: int) -> Pixels:
    grid = Image.fromarray(rng.uniform(0, 1, grain).astype(np.float32))
    return np.asarray(grid.resize((size, size), Image.Resampling.BICUBIC), dtype=np.float32)


def _veins(pen: ImageDraw.ImageDraw, rng: np.random.Generator, size: int) -> None:
    start, lean = rng.uniform(0, size), rng.uniform(-0.6, 0.6)
    tone = (0, 0, 0, 46) if rng.uniform() < 0.5 else (255, 255, 230, 46)
    pen.line([(start, 0), (start + lean * size, size)], fill=tone, width=2)
    for row in range(-1, 5):
        y = (row + rng.uniform(0, 0.4)) * size / 4
        x = start + lean * y
        for side in (-1, 1):
            pen.line([(x, y), (x + side * 0.8 * size, y + 0.5 * size)], fill=tone, width=1)


def cover(pen: ImageDraw.ImageDraw, rng: np.random.Generator, size: int) -> None:
    """Draws up to two blades of grass across a canvas of ``size`` pixels, in front of all else."""
    for _ in range(int(rng.integers(0, 3))):
        angle, shift = rng.uniform(0, np.pi), rng.uniform(-0.42, 0.42) * size
        along = np.array([np.cos(angle), np.sin(angle)])
        aside = np.array([-along[1], along[0]])
        middle = size / 2 + aside * shift
        bend, half = rng.uniform(-0.15, 0.15) * size, rng.uniform(0.012, 0.032) * size
        spine = [middle + along * size * t + aside * bend * t * t for t in (-0.8, -0.3, 0.2, 0.7)]
        widths = (half, half, 0.7 * half, 0.2 * half)
        left = [tuple(point + aside * w) for point, w in zip(spine, widths, strict=True)]
        right = [tuple(point - aside * w) for point, w in zip(spine, widths, strict=True)]
        green = (int(rng.integers(70, 150)), int(rng.integers(110, 175)), int(rng.integers(40, 80)))
        pen.polygon(left + right[::-1], fill=green)


def light(rng: np.random.Generator, image: Image.Image) -> Image.Image:
    """``image`` under light of random strength, tint and direction, with a little grain."""
    size = image.width
    ramp = np.linspace(-1, 1, size, dtype=np.float32)
    slope = rng.uniform(-0.22, 0.22, 2).astype(np.float32)
    gradient = 1 + slope[0] * ramp[None, :, None] + slope[1] * ramp[:, None, None]
    tint = rng.uniform(0.88, 1.12, 3).astype(np.float32) * np.float32(rng.uniform(0.7, 1.2))
    grain = rng.standard_normal((size, size, 1), dtype=np.float32) * np.float32(5.0)
    lit = np.asarray(image, dtype=np.float32) * gradient * tint + grain
    return Image.fromarray(np.clip(lit, 0, 255).astype(np.uint8))


def dusk(image: Image.Image) -> Image.Image:
    """Turn a daylight `image` to dusk: dim and blue."""
    dimmed = np.asarray(image, dtype=np.float32) * np.array((0.25, 0.32, 0.6), dtype=np.float32)
    return Image.fromarray((dimmed + np.array((4, 8, 24), dtype=np.float32)).astype(np.uint8))
