"""A contact sheet of the demo classes: `python -m utuning.demo.sheet docs/pictures/demo_sheet.png`."""

from __future__ import annotations

import argparse
from pathlib import Path

from PIL import Image, ImageDraw, ImageFont

from utuning.demo.dataset import CLASSES
from utuning.demo.drawing import draw
from utuning.demo.species import SPECIES_PER_GENUS, Species, species

_PAPER = (250, 248, 243)
_INK = (52, 48, 42)
_GAP, _MARGIN, _CAPTION = 4, 24, 30


def sheet(seed: int = 0, *, samples: int = 3, tile: int = 112) -> Image.Image:
    """Draw a contact sheet: a row for each genus, a block of named pictures for each of its species.

    Args:
        seed: what the species and their pictures are drawn from.
        samples: pictures of each species.
        tile: side of a picture on the sheet, in pixels; drawn at that size rather than enlarged.
    """
    kinds = species(seed, "downstream", CLASSES)
    across = samples * (tile + _GAP) - _GAP + _MARGIN
    down = tile + _CAPTION + _MARGIN // 2
    rows = -(-len(kinds) // SPECIES_PER_GENUS)
    page = Image.new("RGB", (SPECIES_PER_GENUS * across + _MARGIN, rows * down + _MARGIN), _PAPER)
    for place, kind in enumerate(kinds):
        row, column = divmod(place, SPECIES_PER_GENUS)
        _block(page, kind, seed, samples, tile, (_MARGIN + column * across, _MARGIN + row * down))
    return page


def _block(page: Image.Image, kind: Species, seed: int, samples: int, tile: int, corner: tuple[int, int]) -> None:
    left, top = corner
    for sample in range(samples):
        page.paste(draw(kind, seed, sample, tile), (left + sample * (tile + _GAP), top))
    font = ImageFont.load_default(size=16)
    ImageDraw.Draw(page).text((left + 1, top + tile + 5), kind.name, fill=_INK, font=font)


def main() -> None:
    """Write the sheet to the path on the command line."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("path", type=Path, help="PNG file to write")
    parser.add_argument("--seed", type=int, default=0)
    given = parser.parse_args()
    sheet(given.seed).save(given.path, optimize=True)


if __name__ == "__main__":
    main()
