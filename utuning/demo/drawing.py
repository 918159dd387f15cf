"""Draws one picture of a species."""

from __future__ import annotations

import numpy as np
from PIL import Image, ImageDraw

from utuning.demo.beetle import Pose, draw_beetle
from utuning.demo.scene import cover, dusk, ground, light
from utuning.demo.species import GENERA, Species

# Shapes are drawn this many times larger and averaged down, for smooth edges.
_FINER = 4


def draw(species: Species, seed: int, index: int, size: int = 64) -> Image.Image:
    """Picture number ``index`` of ``species``: an RGB image of ``size`` by ``size`` pixels.

    The picture follows from the arguments alone. Downstream species are seen at dusk, the others by day.
    """
    group = list(GENERA).index(species.group)
    rng = np.random.default_rng([seed, 31, group, species.number, index])
    canvas = size * _FINER
    image = ground(rng, size).resize((canvas, canvas), Image.Resampling.BILINEAR)
    pen = ImageDraw.Draw(image, "RGBA")
    draw_beetle(pen, species, _pose(rng, canvas))
    cover(pen, rng, canvas)
    daylight = light(rng, image.reduce(_FINER))
    # The shift in light is what a probe of frozen features cannot undo and a tuner can.
    return dusk(daylight) if species.group == "downstream" else daylight


def _pose(rng: np.random.Generator, canvas: int) -> Pose:
    x, y = rng.uniform(0.42, 0.58, 2) * canvas
    return Pose(
        centre=(float(x), float(y)),
        scale=float(rng.uniform(0.3, 0.4)) * canvas,
        angle=float(rng.uniform(-0.6, 0.6)),
        squeeze=float(rng.uniform(0.92, 1.06)),
        legs=tuple(float(swing) for swing in rng.uniform(-0.09, 0.09, 8)),
    )
