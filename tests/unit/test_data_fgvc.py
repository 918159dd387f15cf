"""The readers of the known data sets, on archives in their owners' layouts."""

import io
from collections import Counter
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from tests import archives
from tests.archives import ARCHIVES, FILES, TEST, TRAIN, VAL, lines, loose, mat, photo, tar, zipped
from utuning.data.examples import Source
from utuning.data.fgvc.table import READERS
from utuning.data.info import DatasetInfo
from utuning.data.known import prepare_known
from utuning.data.listing import Listing
from utuning.data.shards import read_split
from utuning.data.tree import open_tree
from utuning.errors import DataError


def listed(name: str, source: Path) -> Listing:
    with open_tree(source, READERS[name].archives, source if source.is_dir() else source.parent) as tree:
        listing = READERS[name].read(tree)
        return replace(listing, images=[_read(image) for image in listing.images])


def _read(image: Source) -> Source:
    assert image.data  # while the archive is open
    return image


def told(listing: Listing) -> list[tuple[str, str, str]]:
    return [(image.path, image.label, image.split) for image in listing.images]


def go(name: str, source: Path, to: Path, **options: object) -> DatasetInfo:
    return prepare_known(READERS[name], source, to, **{"subset": True, **options})  # type: ignore[arg-type]


@pytest.mark.parametrize("name", READERS)
def test_every_set_is_prepared_from_its_official_archives(name: str, tmp_path: Path) -> None:
    source = ARCHIVES[name](tmp_path)
    listing = listed(name, source)
    assert len(listing.class_names) == 3 and not listing.missing
    expected = {"train": TRAIN, "test": TEST, **({"val": VAL} if name == "flowers102" else {})}
    assert Counter((i.label, i.split) for i in listing.images) == {
        (label, split): count for label in listing.class_names for split, count in expected.items()
    }
    info = go(name, source, tmp_path / "out")
    assert sum(info.counts.values()) == len(listing.images)
    assert (info.reader, info.subset, info.class_names) == (name, True, tuple(listing.class_names))
    assert info.val == ("as given" if name == "flowers102" else "0.1 of train, stratified, seed 0")
    assert {path.name for path in tmp_path.iterdir() if path.name.startswith(".")} == set()


@pytest.mark.parametrize("name", READERS)
def test_folders_tars_and_zips_give_the_same_data_set(name: str, tmp_path: Path) -> None:
    for part in "abc":
        (tmp_path / part).mkdir()
    sources = [
        ARCHIVES[name](tmp_path / "a"),
        loose(tmp_path / "b", FILES[name]()),
        zipped(tmp_path / "c" / "all.zip", FILES[name]()),
    ]
    found = [go(name, source, tmp_path / f"out{at}").fingerprint for at, source in enumerate(sources)]
    assert len(set(found)) == 1


def test_archives_are_found_beside_content_and_left_alone_where_it_is_there(tmp_path: Path) -> None:
    files = archives.stanford_dogs_files()
    loose(tmp_path, {name: data for name, data in files.items() if name.startswith("Images/")})
    tar(tmp_path / "lists.tar.xz", {name: data for name, data in files.items() if name.endswith(".mat")})
    (tmp_path / "images.tar").write_bytes(b"the download was cut off")
    assert len(listed("stanford_dogs", tmp_path).images) == 3 * (TRAIN + TEST)


def test_cub_ids_count_from_one_and_paths_may_hold_spaces(tmp_path: Path) -> None:
    files = archives.cub200_files()
    new = "001.Black footed Albatross/a b.jpg"
    top, first = "CUB_200_2011/", "001.Black_footed_Albatross/Black_footed_Albatross_0001_7919.jpg"
    files[f"{top}images.txt"] = files[f"{top}images.txt"].replace(first.encode(), new.encode())
    files[f"{top}images/{new}"] = files.pop(f"{top}images/{first}")
    listing = listed("cub200", tar(tmp_path / "cub.tar", files))
    assert told(listing)[0] == (f"images/{new}", "001.Black_footed_Albatross", "train")
    assert list(listing.class_names) == [f"{n:03d}.{name}" for n, name in enumerate(archives.BIRDS, start=1)]


def test_the_extracted_folder_itself_may_be_given(tmp_path: Path) -> None:
    loose(tmp_path, archives.cub200_files())
    assert told(listed("cub200", tmp_path)) == told(listed("cub200", tmp_path / "CUB_200_2011"))


def test_nabirds_classes_go_by_id_and_equal_names_are_told_apart(tmp_path: Path) -> None:
    listing = listed("nabirds", archives.nabirds(tmp_path))
    assert list(listing.class_names) == ["Mallard (Male)", "Oak Titmouse (302)", "Oak Titmouse (817)"]
    path, label, _ = told(listing)[0]
    assert path.startswith("images/0817/") and "-" not in path and label == "Oak Titmouse (817)"


def test_flowers_keep_their_three_splits_under_every_protocol(tmp_path: Path) -> None:
    source = archives.flowers102(tmp_path)
    counts = {
        protocol: dict(go("flowers102", source, tmp_path / protocol, protocol=protocol).counts)
        for protocol in ("vpt", "trainval-final", "official")
    }
    assert all(found == {"train": 3 * TRAIN, "val": 3 * VAL, "test": 3 * TEST} for found in counts.values())


def test_flowers_ids_that_do_not_fit_are_refused(tmp_path: Path) -> None:
    files = archives.flowers102_files()
    ids = {"trnid": [1, 2], "valid": [2], "tstid": [3]}
    loose(tmp_path, {**files, "setid.mat": mat(**{name: np.array([some]) for name, some in ids.items()})})
    with pytest.raises(DataError, match=r"4 ids \(3 different\)"):
        listed("flowers102", tmp_path)


def test_dogs_are_found_by_annotation_names_too_and_named_without_their_number(tmp_path: Path) -> None:
    loose(tmp_path / "a", archives.stanford_dogs_files())
    loose(tmp_path / "b", archives.stanford_dogs_files(annotations_as_files=True))
    one, other = (listed("stanford_dogs", tmp_path / part) for part in "ab")
    assert told(one) == told(other)
    assert list(one.class_names) == ["Chihuahua", "Afghan_hound", "papillon"]


def test_cars_need_their_test_labels(tmp_path: Path) -> None:
    loose(tmp_path, archives.stanford_cars_files())
    listing = listed("stanford_cars", tmp_path)
    assert list(listing.class_names) == list(archives.CARS)
    assert told(listing)[1] == ("cars_train/00002.jpg", "Acura RL Sedan 2012", "train")
    (tmp_path / "cars_test_annos_withlabels.mat").unlink()
    with pytest.raises(DataError, match=r"no file 'devkit/cars_test_annos_withlabels\.mat'"):
        listed("stanford_cars", tmp_path)


def test_copies_of_cars_with_doubled_folders_are_the_same_data_set(tmp_path: Path) -> None:
    files = archives.stanford_cars_files()
    doubled = {f"{name.partition('/')[0]}/{name}" if name.startswith("cars_t") and "/" in name else name: data
               for name, data in files.items()}  # fmt: skip
    one, other = (loose(tmp_path / name, each) for name, each in (("plain", files), ("doubled", doubled)))
    found = [go("stanford_cars", source, tmp_path / f"{source.name}-out") for source in (one, other)]
    assert found[0].fingerprint == found[1].fingerprint and found[0].counts == found[1].counts


def test_a_single_struct_is_read_like_many(tmp_path: Path) -> None:
    files = archives.stanford_cars_files()
    one = mat(annotations=archives.structs([{"fname": "00001.jpg", "class": np.uint8(1)}]))
    loose(tmp_path, {**files, "devkit/cars_train_annos.mat": one})
    assert Counter(split for _, _, split in told(listed("stanford_cars", tmp_path)))["train"] == 1


def test_both_forms_of_cifar_are_the_same_and_lossless(tmp_path: Path) -> None:
    python, binary = (listed("cifar100", write(tmp_path)) for write in (archives.cifar100, archives.cifar100_binary))
    assert told(python) == told(binary)
    assert [image.data for image in python.images] == [image.data for image in binary.images]
    labels, pixels = archives.cifar_rows("train")
    for image, label, row in zip(python.images, labels, pixels, strict=False):
        assert image.label == archives.FINE[label]
        decoded = np.asarray(Image.open(io.BytesIO(image.data)))
        assert (decoded.transpose(2, 0, 1).ravel() == row).all()


@pytest.mark.parametrize("change", ["image", "list", "class", "split"])
def test_lists_and_images_that_do_not_fit_are_named(tmp_path: Path, change: str) -> None:
    files = archives.cub200_files()
    top = "CUB_200_2011/"
    if change == "image":
        files.pop(next(name for name in files if name.endswith(".jpg")))
        says = r"1 listed images are missing: '.*_0001_7919\.jpg'"
    elif change == "list":
        files[f"{top}train_test_split.txt"] = b"1 1\n2 0\n"
        says = r"has 21 ids, train_test_split\.txt has 2, and 19"
    elif change == "class":
        files[f"{top}classes.txt"] = b"1 001.a\n"
        says = r"2 classes without a name: '2', '3'"
    else:
        files[f"{top}images.txt"] = files[f"{top}images.txt"].replace(b"\n2 ", b"\n1 ")
        says = r"Line 2 of 'images\.txt'"
    with pytest.raises(DataError, match=says):
        go("cub200", tar(tmp_path / "cub.tgz", files), tmp_path / "out", subset=False)
    assert [path.name for path in tmp_path.iterdir()] == ["cub.tgz"]


@pytest.mark.parametrize("name", READERS)
def test_wrong_counts_are_errors_with_both_numbers_and_notes_of_a_subset(name: str, tmp_path: Path) -> None:
    source = ARCHIVES[name](tmp_path)
    expected = READERS[name].expected
    with pytest.raises(DataError) as error:
        go(name, source, tmp_path / "out", subset=False)
    for text in (f"3 classes instead of {expected.num_classes}", f"{3 * TRAIN} train images instead of "
                 f"{expected.counts['train']:,}", "--subset"):  # fmt: skip
        assert text in str(error.value)
    for split, count in expected.per_class.items():
        assert f"3 classes have other than {count} {split} images" in str(error.value)
    info = go(name, source, tmp_path / "out")
    assert any(f"3 classes instead of {expected.num_classes}" in text for text in info.warnings)


def test_a_partial_copy_is_a_subset_of_whole_classes(tmp_path: Path) -> None:
    folder = loose(tmp_path / "in", archives.cub200_files()) / "CUB_200_2011"
    for file in sorted((folder / "images" / "003.Le_Conte_Sparrow").iterdir())[TRAIN:]:
        file.unlink()
    info = go("cub200", folder, tmp_path / "out")
    assert info.class_names == ("001.Black_footed_Albatross", "002.Chuck_will_Widow")
    assert any("1 classes without images in both train and test were left out" in text for text in info.warnings)
    assert set(read_split(info, "test")["label"].to_pylist()) == {0, 1}


def test_the_same_photo_in_train_and_test_is_reported(tmp_path: Path) -> None:
    files = archives.cub200_files()
    names = [name for name in files if name.endswith(".jpg")]
    files[names[TRAIN]] = files[names[0]]
    info = go("cub200", tar(tmp_path / "cub.tar", files), tmp_path / "out")
    assert any("1 images occur in test and train" in text and "_0005_" in text for text in info.warnings)


def test_oddities_keep_their_bytes(tmp_path: Path) -> None:
    kinds = {(image.format, image.mode, image.size == (1, 1)) for n in range(6)
             for image in [Image.open(io.BytesIO(photo(n)))]}  # fmt: skip
    assert kinds == {("JPEG", "RGB", False), ("JPEG", "L", False), ("JPEG", "CMYK", False), ("PNG", "RGB", True),
                     ("PNG", "RGB", False)}  # fmt: skip
    files = archives.cub200_files()
    info = go("cub200", tar(tmp_path / "cub.tar", files), tmp_path / "out")
    stored = {
        row["path"]: row["bytes"] for split in info.counts for row in read_split(info, split)["image"].to_pylist()
    }
    assert stored == {name.removeprefix("CUB_200_2011/"): data for name, data in files.items() if name.endswith(".jpg")}


def test_lists_that_leave_the_folder_are_refused(tmp_path: Path) -> None:
    files = archives.cub200_files()
    files["CUB_200_2011/images.txt"] = lines([f"{n} ../../secret.jpg" for n in range(1, 22)])
    loose(tmp_path, files)
    with pytest.raises(DataError, match=r"secret\.jpg.*stay below"):
        listed("cub200", tmp_path)


def test_other_archives_are_told_what_is_missing(tmp_path: Path) -> None:
    for name in READERS:
        with pytest.raises(DataError, match=r"holds no .*--help"):
            listed(name, tar(tmp_path / "other.tar", {"a.txt": b"a"}))
