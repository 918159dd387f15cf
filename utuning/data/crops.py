"""Where a random crop falls, as numbers alone."""

import math
from dataclasses import dataclass

import numpy as np

from utuning.data.faults import fault

RECIPES = ("vpt", "rrc", "none")


@dataclass(frozen=True, kw_only=True)
class Box:
    """A rectangle of an image, to be mirrored or not."""

    top: int
    left: int
    height: int
    width: int
    flip: bool


def check_recipe(recipe: str) -> None:
    """Raise `DataError` for an unknown recipe."""
    if recipe not in RECIPES:
        raise fault(f"The training recipe is {recipe!r}", ", ".join(RECIPES), "choose one of them")


def choose_box(recipe: str, height: int, width: int, size: int, rng: np.random.Generator) -> Box:
    """Choose the crop of a random recipe for a resized image.

    "vpt" cuts a square of the input size; "rrc" an area of 8 to 100 percent with a ratio of
    3/4 to 4/3. Both mirror every second image.
    """
    check_recipe(recipe)
    crop_h, crop_w = (size, size) if recipe == "vpt" else _random_area(height, width, rng)
    return Box(
        top=int(rng.integers(height - crop_h + 1)),
        left=int(rng.integers(width - crop_w + 1)),
        height=crop_h,
        width=crop_w,
        flip=bool(rng.random() < 0.5),
    )


def _random_area(height: int, width: int, rng: np.random.Generator) -> tuple[int, int]:
    for _ in range(10):
        area = height * width * rng.uniform(0.08, 1.0)
        ratio = math.exp(rng.uniform(math.log(3 / 4), math.log(4 / 3)))
        crop_h, crop_w = round(math.sqrt(area / ratio)), round(math.sqrt(area * ratio))
        if 0 < crop_h <= height and 0 < crop_w <= width:
            return crop_h, crop_w
    # Long thin images may never fit such an area; the largest allowed one always does.
    return min(height, round(width * 4 / 3)), min(width, round(height * 4 / 3))
