import io
from collections import Counter
from itertools import islice

import numpy as np
import pytest
from PIL import Image

from utuning.demo.dataset import CLASSES, demo_examples
from utuning.demo.drawing import draw
from utuning.demo.sheet import sheet
from utuning.demo.species import GENERA, SPECIES_PER_GENUS, Species, species


def traits(kind: Species) -> tuple[object, object]:
    return kind.genus, kind.details


def every(group: str) -> list[Species]:
    return species(0, group, GENERA[group] * SPECIES_PER_GENUS)


def test_the_same_seed_gives_the_same_bytes() -> None:
    assert list(demo_examples(3, train=2, val=1, test=1)) == list(demo_examples(3, train=2, val=1, test=1))


def test_another_seed_gives_other_pictures() -> None:
    one, other = (next(iter(demo_examples(seed))) for seed in (0, 1))
    assert one.data != other.data


def test_a_larger_split_changes_no_other_picture() -> None:
    small = {one.path: one.data for one in demo_examples(train=1, val=1, test=1)}
    large = {one.path: one.data for one in demo_examples(train=2, val=1, test=1)}
    assert small.items() <= large.items()


def test_split_sizes() -> None:
    found = Counter((one.split, one.label) for one in demo_examples(train=3, val=1, test=2))
    assert Counter(split for split, _ in found.elements()) == {
        "train": 3 * CLASSES,
        "val": CLASSES,
        "test": 2 * CLASSES,
    }
    assert len(set(found.values())) == 3


def test_no_two_pictures_are_alike() -> None:
    data = [one.data for one in demo_examples(train=2, val=2, test=2)]
    assert len(set(data)) == len(data)


def test_pictures_are_64_pixels_rgb() -> None:
    for one in islice(demo_examples(), 3):
        image = Image.open(io.BytesIO(one.data))
        assert (image.size, image.mode) == ((64, 64), "RGB")


def test_names_are_unique() -> None:
    names = [kind.name for group in GENERA for kind in every(group)]
    assert len(set(names)) == len(names)


def test_the_groups_share_no_species_and_no_genus() -> None:
    downstream, pretraining = every("downstream"), every("pretraining")
    assert len({traits(kind) for kind in downstream + pretraining}) == len(downstream) + len(pretraining)
    assert not {kind.genus for kind in downstream} & {kind.genus for kind in pretraining}


def test_fewer_species_are_the_first_of_all() -> None:
    assert species(0, "pretraining", 5) == every("pretraining")[:5]


def test_asking_for_too_much_or_an_unknown_group_is_refused() -> None:
    with pytest.raises(ValueError, match="24 species"):
        species(0, "downstream", 25)
    with pytest.raises(ValueError, match="no group"):
        species(0, "upstream", 1)


def test_a_picture_can_be_drawn_at_another_size() -> None:
    small, large = (draw(every("downstream")[0], 0, 0, size) for size in (32, 96))
    assert (small.size, large.size) == ((32, 32), (96, 96))
    assert np.asarray(large).std() > 5


def test_downstream_pictures_are_darker() -> None:
    dusk, day = (np.mean([draw(kind, 0, 0) for kind in every(group)[:8]]) for group in GENERA)
    assert dusk < 0.7 * day


def test_the_sheet_shows_every_class() -> None:
    page = sheet(samples=1, tile=24)
    assert page.mode == "RGB"
    assert page.height > 6 * 24
