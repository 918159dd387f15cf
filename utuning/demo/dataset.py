"""The demo data set: labelled pictures of the downstream species."""

from __future__ import annotations

import io
from collections.abc import Iterator

from utuning.data.examples import SPLITS, Example
from utuning.demo.drawing import draw
from utuning.demo.species import GENERA, SPECIES_PER_GENUS, Species, species

CLASSES = GENERA["downstream"] * SPECIES_PER_GENUS
_JPEG_QUALITY = 92
# Beyond the index of any picture of a split, see `_example`.
_UNSEEN_INDEX = 1_000_003


def demo_examples(seed: int = 0, *, train: int = 40, val: int = 10, test: int = 25) -> Iterator[Example]:
    """Yield the demo data set, split by split and class by class.

    A picture follows from the seed and its path: asking for more of one split changes no other picture.

    Args:
        seed: what the species and their pictures are drawn from.
        train: pictures of each class in the train split.
        val: pictures of each class in the val split.
        test: pictures of each class in the test split.
    """
    kinds = species(seed, "downstream", CLASSES)
    for split, count in zip(SPLITS, (train, val, test), strict=True):
        for kind in kinds:
            for number in range(count):
                yield _example(kind, seed, split, number)


def _example(kind: Species, seed: int, split: str, number: int) -> Example:
    # Interleaved, so that the splits share no picture however large they are.
    return _encoded(kind, seed, number * len(SPLITS) + SPLITS.index(split), split, number)


def _encoded(kind: Species, seed: int, index: int, split: str, number: int) -> Example:
    encoded = io.BytesIO()
    draw(kind, seed, index).save(encoded, "JPEG", quality=_JPEG_QUALITY, subsampling=0)
    path = f"{split}/{kind.name}/{number:03d}.jpg"
    return Example(path=path, label=kind.name, split=split, data=encoded.getvalue())


def unseen(seed: int = 0) -> Example:
    """A picture that is in no split, of a class that the seed decides."""
    kinds = species(seed, "downstream", CLASSES)
    return _encoded(kinds[7 * (seed + 1) % CLASSES], seed, _UNSEEN_INDEX, "unseen", 0)
