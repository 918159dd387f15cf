"""Images that are stored smaller: their size, their ratio, their pixels; and nothing else of the data set changes."""

import io
import tempfile
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from tests.archives import photo
from utuning.data.decode import decode_rgb, is_plain_jpeg
from utuning.data.encode import read_shrunk
from utuning.data.examples import Example
from utuning.data.info import DatasetInfo
from utuning.data.prepare import prepare
from utuning.data.shards import open_dataset, read_split
from utuning.data.shrinking import SMALLEST, enlarged_note, shrunk_size
from utuning.errors import DataError

SIDES = st.integers(1, 2000)


def noise(width: int, height: int, kind: str = "JPEG", **options: object) -> bytes:
    values = np.random.default_rng(0).integers(0, 256, (height, width, 3), dtype=np.uint8)
    return encoded(Image.fromarray(values), kind, **options)


def encoded(image: Image.Image, kind: str = "JPEG", **options: object) -> bytes:
    buffer = io.BytesIO()
    image.save(buffer, kind, **options)
    return buffer.getvalue()


@given(width=SIDES, height=SIDES, shorter_side=st.integers(SMALLEST, 600))
def test_the_shorter_side_is_at_most_that_and_the_ratio_stays(width: int, height: int, shorter_side: int) -> None:
    size = shrunk_size(width, height, shorter_side)
    assert min(size) == min(width, height, shorter_side)
    scale = min(size) / min(width, height)
    assert abs(size[0] - scale * width) < 1 and abs(size[1] - scale * height) < 1
    assert shrunk_size(*size, shorter_side) == size


@settings(max_examples=30, deadline=None)
@given(width=st.integers(1, 120), height=st.integers(1, 120), kind=st.sampled_from(["JPEG", "PNG"]))
def test_what_is_no_larger_is_stored_to_the_byte_and_the_rest_with_fewer(width: int, height: int, kind: str) -> None:
    data = noise(width, height, kind)
    stored = read_shrunk(data, "x", 50)
    assert stored == read_shrunk(data, "x", 50)
    smaller = encoded(decode_rgb(data).resize(shrunk_size(width, height, 50), Image.Resampling.BICUBIC), quality=95)
    if min(width, height) <= 50 or len(smaller) >= len(data):
        assert stored == data
    else:
        assert stored == smaller
        assert decode_rgb(stored).size == shrunk_size(width, height, 50)
        assert is_plain_jpeg(stored)


def test_pixels_are_those_of_one_resize_within_what_jpeg_loses() -> None:
    smooth = Image.open(io.BytesIO(noise(8, 6))).resize((400, 300), Image.Resampling.BICUBIC)
    expected = np.asarray(smooth.resize((66, 50), Image.Resampling.BICUBIC)).astype(float)
    found = np.asarray(decode_rgb(read_shrunk(encoded(smooth, "PNG"), "x", 50))).astype(float)
    assert np.abs(found - expected).mean() < 1.5


def test_a_turned_photo_is_stored_upright() -> None:
    block = Image.Exif()
    block[0x0112] = 6
    data = noise(120, 80, exif=block)
    stored = Image.open(io.BytesIO(read_shrunk(data, "x", 40)))
    assert stored.size == (40, 60) and not stored.getexif()


def test_what_is_too_long_for_a_jpeg_stays_as_it_is() -> None:
    data = noise(70_000, 33, "PNG")
    assert read_shrunk(data, "x", 32) == data


def examples() -> list[Example]:
    rows = [(split, label, n) for split in ("train", "test") for label in "ab" for n in range(8)]
    return [
        Example(
            path=f"{split}/{label}/{n}", label=label, split=split, data=photo(number, size=(90, 60 if n % 2 else 30))
        )
        for number, (split, label, n) in enumerate(rows)
    ]


def told(info: DatasetInfo, split: str) -> list[tuple[str, int]]:
    return [(row["image"]["path"], row["label"]) for row in read_split(info, split).to_pylist()]


def test_labels_splits_and_order_stay_and_the_version_changes() -> None:
    with tempfile.TemporaryDirectory() as folder:
        whole = prepare(examples(), Path(folder) / "whole", name="toy")
        small = prepare(examples(), Path(folder) / "small", name="toy", shorter_side=40)
        other = prepare(examples(), Path(folder) / "other", name="toy", shorter_side=32)
        same = prepare(examples(), Path(folder) / "same", name="toy", shorter_side=60)
        assert open_dataset(Path(folder) / "small") == small
        assert (whole.shorter_side, small.shorter_side, other.shorter_side) == (None, 40, 32)
        assert len({info.fingerprint for info in (whole, small, other)}) == 3
        assert same.fingerprint == whole.fingerprint, "nothing is larger than that"
        assert small.counts == whole.counts and small.class_names == whole.class_names
        for split in whole.counts:
            assert told(small, split) == told(whole, split)
            for mine, theirs in zip(*(read_split(i, split)["image"].to_pylist() for i in (small, whole)), strict=True):
                assert mine["bytes"] == read_shrunk(theirs["bytes"], "x", 40)


def test_preparing_again_gives_the_same_and_goes_on_with_its_own_notes_alone(tmp_path: Path) -> None:
    class Stop(BaseException):
        """Stands for Ctrl-C."""

    def stop(what: str, done: int, total: int) -> None:
        if what == "writing":
            raise Stop

    for shorter_side in (None, 40):
        with pytest.raises(Stop):
            prepare(examples(), tmp_path / "out", name="toy", shorter_side=shorter_side, progress=stop)
    first = prepare(examples(), tmp_path / "out", name="toy", shorter_side=40)
    assert prepare(examples(), tmp_path / "out", name="toy", shorter_side=40) == first
    with pytest.raises(DataError, match="already holds"):
        prepare(examples(), tmp_path / "out", name="toy")
    assert [path.name for path in tmp_path.iterdir()] == ["out"]


@pytest.mark.parametrize("shorter_side", [-1, 0, SMALLEST - 1])
def test_sizes_that_leave_nothing_are_refused(tmp_path: Path, shorter_side: int) -> None:
    with pytest.raises(DataError, match=rf"shorter_side is {shorter_side}\. Allowed: 32 pixels or more.*Next: "):
        prepare(examples(), tmp_path / "out", name="toy", shorter_side=shorter_side)
    assert list(tmp_path.iterdir()) == []


def test_a_backbone_that_would_enlarge_them_is_remarked_on() -> None:
    assert enlarged_note(None, 256) == enlarged_note(256, 256) == []
    assert "at most 128 px" in enlarged_note(128, 256)[0]
