"""Where val comes from, against the protocol that a space names; and what runs say of their data."""

from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pipelines.tracking.data_tags import CHARS, data_tags, read_data_tags
from utuning.data.fgvc.table import READERS
from utuning.data.info import DatasetInfo
from utuning.data.places import Place
from utuning.data.protocols import PROTOCOLS
from utuning.data.shrinking import stored_as
from utuning.data.val import check_given_val, check_val, part_notes
from utuning.errors import DataError

HELD_OUT = "0.1 of train, stratified, seed 0"
INFO = DatasetInfo(
    path=Place.of("prepared"), name="birds", class_names=("a", "b"), counts={"train": 9, "val": 1, "test": 2},
    fingerprint="d1", val=HELD_OUT,
)  # fmt: skip


@pytest.mark.parametrize("protocol", PROTOCOLS)
def test_a_val_that_came_with_the_data_fits_every_protocol(protocol: str) -> None:
    assert check_val(replace(INFO, val="as given"), protocol) == []


@pytest.mark.parametrize("protocol", PROTOCOLS)
@pytest.mark.parametrize("counts", [{"train": 10, "test": 2}, {"train": 10, "val": 0, "test": 2}])
def test_without_val_nothing_can_be_selected(protocol: str, counts: dict[str, int]) -> None:
    with pytest.raises(DataError, match=r"'birds'.*no val.*" + protocol + r".*prepare it with protocol vpt"):
        check_val(replace(INFO, counts=counts, val="none"), protocol)


def test_a_drawn_val_is_what_two_protocols_draw_and_the_third_refuses() -> None:
    assert check_val(INFO, "vpt") == check_val(INFO, "trainval-final") == []
    with pytest.raises(DataError, match=rf"val that is {HELD_OUT}.*'official'.*set protocol: vpt"):
        check_val(INFO, "official")


@pytest.mark.parametrize("val", ["0.2 of train, stratified, seed 0", "0.1 of train, stratified, seed 3"])
def test_a_val_that_was_drawn_otherwise_is_noted_with_both_sides(val: str) -> None:
    (note,) = check_val(replace(INFO, val=val), "vpt")
    assert val in note and HELD_OUT in note


@pytest.mark.parametrize("protocol", PROTOCOLS)
def test_a_val_of_which_nothing_is_said_is_noted(protocol: str) -> None:
    (note,) = check_val(replace(INFO, val=""), protocol)
    assert "does not say" in note


def test_known_sets_without_a_published_val_are_refused_before_they_are_read() -> None:
    for name, reader in READERS.items():
        for protocol in ("vpt", "trainval-final"):
            check_given_val(name, reader.expected.counts, protocol)
        if name == "flowers102":
            check_given_val(name, reader.expected.counts, "official")
        else:
            with pytest.raises(DataError, match=r"comes without val.*set protocol: vpt"):
                check_given_val(name, reader.expected.counts, "official")


def test_a_part_of_a_known_set_says_so() -> None:
    assert part_notes(INFO) == []
    assert "a part of cub200" in part_notes(replace(INFO, subset=True, reader="cub200"))[0]


@given(st.lists(st.text(max_size=3000), max_size=5), st.booleans(), st.text(max_size=20))
def test_tags_say_of_the_data_what_was_known_and_stay_short(warnings: list[str], subset: bool, val: str) -> None:
    shorter_side = 64 if subset else None
    tags = data_tags(replace(INFO, warnings=tuple(warnings), subset=subset, val=val, shorter_side=shorter_side))
    assert all(len(tag) <= CHARS for tag in tags.values())
    fields = read_data_tags(tags)
    assert (fields["val_from"], fields["subset"]) == (val, subset)
    assert fields["data_images"] == stored_as(shorter_side)
    kept = iter(warnings)
    assert all(warning in kept for warning in fields["data_warnings"]), "in their order"
    assert sum(map(len, warnings)) > CHARS / 13 or fields["data_warnings"] == tuple(warnings)


def test_runs_of_before_say_nothing_of_their_data() -> None:
    assert read_data_tags({}) == {"val_from": "", "subset": False, "data_images": "as given", "data_warnings": ()}
