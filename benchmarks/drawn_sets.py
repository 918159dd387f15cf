"""Eight small drawn data sets that differ in what they show, in their light, and in how many classes and images."""

import io
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from itertools import product
from math import cos, pi, sin

import numpy as np
from PIL import Image, ImageDraw, ImageFilter, ImageOps

from utuning.data.examples import SPLITS, Example
from utuning.demo.drawing import draw
from utuning.demo.species import GENERA, SPECIES_PER_GENUS, Species, species

SIZE = 64
VAL_IMAGES = 160
"""About so many val images has each set, whatever its number of classes."""
Picture = Callable[[int], Image.Image]
"""The picture of a number."""
Classes = Sequence[tuple[str, Picture]]
Look = Callable[[Image.Image], Image.Image]


@dataclass(frozen=True)
class DrawnSet:
    """A data set: the picture of each class, and how many train images a class has."""

    name: str
    about: str
    classes: Classes
    train: int

    def examples(self) -> Iterator[Example]:
        """Train, val and a test image of each class, which nobody reads."""
        counts = {"train": self.train, "val": VAL_IMAGES // len(self.classes), "test": 1}
        for place, split in enumerate(SPLITS):
            for label, picture in self.classes:
                for number in range(counts[split]):
                    encoded = io.BytesIO()
                    picture(number * len(SPLITS) + place).save(encoded, "PNG")
                    path = f"{split}/{label}/{number}.png"
                    yield Example(path=path, label=label, split=split, data=encoded.getvalue())


def drawn_sets() -> dict[str, DrawnSet]:
    """All of them, by name. The seeds are others than the pretraining's, so that no species was seen before."""
    sets = (
        DrawnSet("dusk", "16 species of 4 genera, in dusk", _beetles(1, "downstream", 16), 10),
        DrawnSet("dusk-few", "20 species of 5 genera, in dusk", _beetles(2, "downstream", 20), 8),
        DrawnSet("dusk-close", "8 species of 2 genera, in dusk", _beetles(3, "downstream", 8), 20),
        DrawnSet("day", "16 species of 4 genera, by day", _beetles(4, "pretraining", 16), 10),
        DrawnSet("day-genera", "16 genera, one species each, by day", _beetles(5, "pretraining", 16, step=4), 10),
        DrawnSet("negative", "12 species, colours inverted", _beetles(6, "pretraining", 12, look=ImageOps.invert), 13),
        DrawnSet("blurred", "12 species by day, out of focus", _beetles(7, "pretraining", 12, look=_blurred), 13),
        DrawnSet("stars", "12 stars by number of points, slimness and filling", _stars(), 13),
    )
    return {each.name: each for each in sets}


def _beetles(seed: int, group: str, count: int, step: int = 1, look: Look = lambda image: image) -> Classes:
    kinds = species(seed, group, GENERA[group] * SPECIES_PER_GENUS)[::step][:count]

    def picture(kind: Species) -> Picture:
        return lambda number: look(draw(kind, seed, number, SIZE))

    return [(kind.name, picture(kind)) for kind in kinds]


def _blurred(image: Image.Image) -> Image.Image:
    return image.filter(ImageFilter.GaussianBlur(1.6))


def _stars() -> Classes:
    kinds = product((4, 5, 6), (0.35, 0.6), (False, True))
    return [(f"star-{'-'.join(map(str, kind))}", _star(*kind)) for kind in kinds]


def _star(points: int, slim: float, full: bool) -> Picture:
    def picture(number: int) -> Image.Image:
        rng = np.random.default_rng([8, points, round(100 * slim), full, number])
        back, fore = rng.integers(0, 256, 3), rng.integers(0, 256, 3)
        fore = np.where(np.abs(fore - back) < 50, (back + 128) % 256, fore)
        noise = rng.normal(0, 12, (SIZE, SIZE, 3))
        image = Image.fromarray(np.clip(back + noise, 0, 255).astype(np.uint8)).resize((4 * SIZE, 4 * SIZE))
        x, y, radius, turn = *rng.uniform(0.4, 0.6, 2), rng.uniform(0.2, 0.38), rng.uniform(0, 2 * pi)
        corners = []
        for corner in range(2 * points):
            angle, reach = turn + pi * corner / points, radius * (slim if corner % 2 else 1)
            corners.append((4 * SIZE * (x + reach * cos(angle)), 4 * SIZE * (y + reach * sin(angle))))
        colour = tuple(int(part) for part in fore)
        ImageDraw.Draw(image).polygon(corners, fill=colour if full else None, outline=colour, width=8)
        return image.reduce(4)

    return picture
