"""Reading folders and lists, and preparing them."""

import io
import os
from collections.abc import Iterable
from pathlib import Path

import pytest
from PIL import Image

from utuning.data.examples import Example, ImageRef, Source
from utuning.data.info import DatasetInfo
from utuning.data.prepare import prepare
from utuning.data.readers import folder_examples, list_examples
from utuning.data.shards import read_split
from utuning.data.splitting import class_order
from utuning.errors import DataError


def png(number: int) -> bytes:
    buffer = io.BytesIO()
    Image.new("RGB", (3, 3), (number % 256, number // 256, 7)).save(buffer, "PNG")
    return buffer.getvalue()


def lay_out(root: Path, *paths: str) -> Path:
    for number, path in enumerate(paths):
        (root / path).parent.mkdir(parents=True, exist_ok=True)
        (root / path).write_bytes(png(number))
    return root


def told(refs: Iterable[Source]) -> list[tuple[str, str, str]]:
    return [(ref.path, ref.label, ref.split) for ref in refs]


def made(counts: dict[tuple[str, str], int]) -> list[Example]:
    groups = [key for key, count in counts.items() for _ in range(count)]
    return [
        Example(path=f"{split}/{label}/{n}.png", label=label, split=split, data=png(n))
        for n, (split, label) in enumerate(groups)
    ]


def stored(info: DatasetInfo) -> dict[str, set[bytes]]:
    return {split: {image["bytes"] for image in read_split(info, split)["image"].to_pylist()} for split in info.counts}


FULL = {("train", "a"): 10, ("train", "b"): 4, ("test", "a"): 2, ("test", "b"): 2}


def go(tmp_path: Path, examples: Iterable[Source], **options: object) -> DatasetInfo:
    return prepare(examples, tmp_path / "out", name="toy", **options)  # type: ignore[arg-type]


def test_class_folders_are_all_train(tmp_path: Path) -> None:
    lay_out(tmp_path, "bee/1.JPG", "ant/2.png", "ant/._2.png", "ant/notes.txt", ".git/x/y.png")
    assert told(folder_examples(tmp_path)) == [
        ("ant/2.png", "ant", "train"), ("bee/1.JPG", "bee", "train"),
    ]  # fmt: skip


@pytest.mark.parametrize("val", ["val", "valid", "validation"])
def test_split_folders_with_nested_classes(tmp_path: Path, val: str) -> None:
    lay_out(tmp_path, "train/fruit/apple/1.png", f"{val}/apple/2.png", "test/bee/3.png")
    assert told(folder_examples(tmp_path)) == [
        ("train/fruit/apple/1.png", "apple", "train"), (f"{val}/apple/2.png", "apple", "val"),
        ("test/bee/3.png", "bee", "test"),
    ]  # fmt: skip


def test_equal_leaf_folders_are_told_apart_by_their_parents(tmp_path: Path) -> None:
    lay_out(tmp_path, "train/red/s/1.png", "train/blue/s/2.png", "test/red/s/3.png", "test/x/4.png")
    labels = [label for _, label, _ in told(folder_examples(tmp_path))]
    assert labels == ["blue/s", "red/s", "red/s", "x"]


@pytest.mark.parametrize(
    ("paths", "message"),
    [
        ([], "no images"), (["train/1.png"], "no class folder"),
        (["train/a/1.png", "val/a/2.png", "valid/a/3.png"], "'train', 'val', 'valid'"),
        (["test/a/1.png"], "train, and at most one"),
    ],
)  # fmt: skip
def test_unclear_folders_are_refused(tmp_path: Path, paths: list[str], message: str) -> None:
    with pytest.raises(DataError, match=message):
        folder_examples(lay_out(tmp_path, *paths))


def test_a_missing_folder_is_named(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="nowhere"):
        folder_examples(tmp_path / "nowhere")


LISTS = "sub dir/one.png, 0, 5\n\n  two.png ,1\n"


def test_lists_name_classes_with_or_without_a_class_file(tmp_path: Path) -> None:
    lay_out(tmp_path, "sub dir/one.png", "two.png")
    (tmp_path / "train.txt").write_text(LISTS)
    (tmp_path / "test.txt").write_text("two.png 1 extra")
    (tmp_path / "classes.csv").write_text("﻿class_name,class_id,more\nant,0,x\nbee,1,y\n")
    lists = {"train": tmp_path / "train.txt", "test": tmp_path / "test.txt"}
    refs = list_examples(tmp_path, lists, classes=tmp_path / "classes.csv")
    assert told(refs) == [
        ("sub dir/one.png", "ant", "train"),
        ("two.png", "bee", "train"),
        ("two.png", "bee", "test"),
    ]  # fmt: skip
    assert [ref.data for ref in refs] == [png(0), png(1), png(1)]
    assert [label for _, label, _ in told(list_examples(tmp_path, lists))] == ["0", "1", "1"]


@pytest.mark.parametrize(
    ("train", "classes", "message"),
    [
        ("one.png", "name,id\nant,0", r"train\.txt:1 reads"),
        ("one.png, x", "name,id\nant,0", r"train\.txt:1 reads"),
        ("one.png, 7", "name,id\nant,0", "class id 7"),
        ("one.png, 0", "ant,0", "add the header"), ("one.png, 0", "", "add the header"),
        ("one.png, 0", "name,id\nant,zero", "no whole number"),
        ("one.png, 0", "name,id\nant,0\nant,1", "repeats"),
        ("one.png, 0", "name,id\nant,0\nbee,0", "repeats"),
    ],
)  # fmt: skip
def test_bad_lists_are_refused(tmp_path: Path, train: str, classes: str, message: str) -> None:
    (tmp_path / "train.txt").write_text(train)
    (tmp_path / "classes.csv").write_text(classes)
    with pytest.raises(DataError, match=message):
        list_examples(tmp_path, {"train": tmp_path / "train.txt"}, classes=tmp_path / "classes.csv")


def test_missing_lists_and_unknown_splits_are_named(tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"gone\.txt"):
        list_examples(tmp_path, {"train": tmp_path / "gone.txt"})
    with pytest.raises(DataError, match="'dev'"):
        list_examples(tmp_path, {"dev": tmp_path / "gone.txt"})


def test_the_validation_split_is_stratified_and_deterministic(tmp_path: Path) -> None:
    first = go(tmp_path, made(FULL))
    assert dict(first.counts) == {"train": 12, "val": 2, "test": 4}
    assert sorted(read_split(first, "val")["label"].to_pylist()) == [0, 1]
    again = prepare(reversed(made(FULL)), tmp_path / "b", name="toy")
    assert stored(again) == stored(first)
    other = prepare(made(FULL), tmp_path / "c", name="toy", seed=1)
    assert other.fingerprint != first.fingerprint


def test_an_existing_validation_split_is_kept(tmp_path: Path) -> None:
    info = go(tmp_path, made({**FULL, ("val", "a"): 1}), val_fraction=0.5)
    assert dict(info.counts) == {"train": 14, "val": 1, "test": 4}


def test_a_test_split_is_asked_for_or_taken(tmp_path: Path) -> None:
    examples = made({("train", "a"): 10, ("train", "b"): 3})
    with pytest.raises(DataError, match="test_fraction"):
        go(tmp_path, examples)
    info = go(tmp_path, examples, test_fraction=0.2)
    assert dict(info.counts) == {"train": 8, "val": 2, "test": 3}


@pytest.mark.parametrize(
    ("extra", "message"),
    [
        ({("test", "c"): 1}, "in test but none in train: 'c'"),
        ({("val", "c"): 1}, "in val but none in train: 'c'"),
        ({("train", "c"): 3, ("train", "d"): 3}, "in train but none in test: 'c', 'd'"),
        ({("dev", "a"): 1}, "dev"),
    ],
)
def test_classes_and_splits_that_do_not_fit_are_named(
    tmp_path: Path, extra: dict[tuple[str, str], int], message: str
) -> None:
    with pytest.raises(DataError, match=message):
        go(tmp_path, made({**FULL, **extra}))
    assert list(tmp_path.iterdir()) == []


def test_no_images_and_bad_fractions_are_refused(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="0 usable images"):
        go(tmp_path, [])
    with pytest.raises(DataError, match=r"val_fraction is 1\.5"):
        go(tmp_path, made(FULL), val_fraction=1.5)


def test_a_corrupt_image_is_named_or_skipped_and_listed(tmp_path: Path) -> None:
    good = made(FULL)
    bad = Example(path="train/a/bad.png", label="a", split="train", data=png(1)[:40])
    with pytest.raises(DataError, match=r"train/a/bad\.png"):
        go(tmp_path, [*good, bad])
    assert list(tmp_path.iterdir()) == []
    info = go(tmp_path, [bad, *good], skip_corrupt=True)
    assert info.skipped == ("train/a/bad.png",)
    assert info.fingerprint == prepare(good, tmp_path / "b", name="toy").fingerprint


def test_a_missing_file_is_never_skipped(tmp_path: Path) -> None:
    gone = ImageRef(path="gone.png", label="a", split="train", file=tmp_path / "gone.png")
    with pytest.raises(DataError, match=r"gone\.png.*cannot be read"):
        go(tmp_path, [*made(FULL), gone], skip_corrupt=True)


def test_images_in_two_splits_are_reported(tmp_path: Path) -> None:
    extra = [Example(path="t.png", label="a", split="test", data=png(n)) for n in range(2)]
    info = go(tmp_path, [*made({**FULL, ("val", "a"): 1}), *extra])
    assert info.warnings == ("2 images occur in test and train: 't.png = train/a/0.png', 't.png = train/a/1.png'",)


def test_too_little_space_is_found_before_writing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("utuning.data.space.free_bytes", lambda path: 10)
    with pytest.raises(DataError, match="only 10 B are free"):
        go(tmp_path, made(FULL))
    assert list(tmp_path.iterdir()) == []


def test_preparing_twice_leaves_the_first(tmp_path: Path) -> None:
    seen: list[tuple[str, int, int]] = []
    first = go(tmp_path, made(FULL))
    assert go(tmp_path, made(FULL), progress=lambda *state: seen.append(state)) == first
    assert seen == [("checking", done, 18) for done in range(1, 19)]
    with pytest.raises(DataError, match="already holds"):
        go(tmp_path, made({**FULL, ("val", "a"): 1}))
    assert go(tmp_path, made({**FULL, ("val", "a"): 1}), overwrite=True) != first


def test_a_png_named_jpg_is_prepared_from_a_folder(tmp_path: Path) -> None:
    root = lay_out(tmp_path / "in", *(f"{s}/{c}/{n}.jpg" for s in ("train", "test")
                                      for c in "ab" for n in range(2)))  # fmt: skip
    assert dict(go(tmp_path, folder_examples(root)).counts) == {"train": 2, "val": 2, "test": 4}


def test_class_names_sort_their_numbers_by_value() -> None:
    assert class_order(["b10", "10", "b2", "9", "9"]) == ["b2", "b10", "9", "10"]


@pytest.mark.skipif("UTUNING_GROCERY" not in os.environ, reason="UTUNING_GROCERY is not set")
def test_a_real_data_set_with_list_files(tmp_path: Path) -> None:
    root = Path(os.environ["UTUNING_GROCERY"])
    lists = {split: root / f"{split}.txt" for split in ("train", "val", "test")}
    info = go(tmp_path, list_examples(root, lists, classes=root / "classes.csv"))
    assert dict(info.counts) == {"train": 2640, "val": 296, "test": 2485}
    assert len(info.class_names) == 81
