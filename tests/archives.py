"""Small archives in the exact layouts of the official data sets, their oddities included; written by tests.

Each writer makes the files that an owner publishes into a folder, and returns what `utuning prepare NAME --from` takes.
The counts are those of a fixture, so that `--subset` is needed. Images are of every kind that is found in such sets:
RGB, grayscale and CMYK JPEGs, single pixels, and PNGs that are named .jpg.
"""

import io
import pickle
import struct
import tarfile
import uuid
import zipfile
from collections.abc import Callable, Mapping
from pathlib import Path

import numpy as np
from PIL import Image
from scipy.io import savemat

Files = dict[str, bytes]
TRAIN, VAL, TEST = 4, 2, 3
"""Images of each class in each split; val only where there is an official one."""


def photo(number: int, *, size: tuple[int, int] = (20, 14)) -> bytes:
    """Encode an image that no other number gives; every sixth is an oddity."""
    rng = np.random.default_rng(number)
    pixels = rng.integers(0, 256, (*size[::-1], 3), dtype=np.uint8)
    kind = number % 6
    if kind == 1:
        return encoded(Image.fromarray(pixels[..., 0]), "JPEG")
    if kind == 2:
        return encoded(Image.fromarray(pixels).convert("CMYK"), "JPEG")
    if kind == 3:
        return encoded(Image.new("RGB", (1, 1), (number % 256, number // 256 % 256, 5)), "PNG")
    if kind == 4:
        return encoded(Image.fromarray(pixels), "PNG")
    return encoded(Image.fromarray(pixels), "JPEG")


def encoded(image: Image.Image, kind: str) -> bytes:
    buffer = io.BytesIO()
    image.save(buffer, kind)
    return buffer.getvalue()


def tar(file: Path, files: Mapping[str, bytes]) -> Path:
    """Write a tar archive, compressed as its name says."""
    mode = {".tgz": "w:gz", ".gz": "w:gz", ".bz2": "w:bz2", ".xz": "w:xz"}.get(file.suffix, "w")
    with tarfile.open(file, mode) as archive:  # type: ignore[call-overload]
        for name, data in files.items():
            entry = tarfile.TarInfo(name)
            entry.size = len(data)
            archive.addfile(entry, io.BytesIO(data))
    return file


def zipped(file: Path, files: Mapping[str, bytes]) -> Path:
    with zipfile.ZipFile(file, "w") as archive:
        for name, data in files.items():
            archive.writestr(name, data)
    return file


def loose(folder: Path, files: Mapping[str, bytes]) -> Path:
    """Write the files as they lie after extracting."""
    for name, data in files.items():
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_bytes(data)
    return folder


def lines(rows: list[str]) -> bytes:
    return ("\n".join(rows) + "\n").encode()


BIRDS = ("Black_footed_Albatross", "Chuck_will_Widow", "Le_Conte_Sparrow")


def cub200_files() -> Files:
    """CUB-200-2011: ids from 1, class folders with a number, apostrophes and spaces removed from names."""
    classes = [f"{n:03d}.{name}" for n, name in enumerate(BIRDS, start=1)]
    rows = [(c, split) for c in range(len(classes)) for split in (["1"] * TRAIN + ["0"] * TEST)]
    paths = [f"{classes[c]}/{BIRDS[c]}_{n:04d}_{n * 7919}.jpg" for n, (c, _) in enumerate(rows, start=1)]
    top = "CUB_200_2011/"
    lists = {
        "images.txt": [f"{n} {path}" for n, path in enumerate(paths, start=1)],
        "image_class_labels.txt": [f"{n} {c + 1}" for n, (c, _) in enumerate(rows, start=1)],
        "train_test_split.txt": [f"{n} {split}" for n, (_, split) in enumerate(rows, start=1)],
        "classes.txt": [f"{n} {name}" for n, name in enumerate(classes, start=1)],
        "bounding_boxes.txt": [f"{n} 1.0 1.0 9.0 9.0" for n in range(1, len(rows) + 1)],
    }
    files = {f"{top}images/{path}": photo(n) for n, path in enumerate(paths)}
    # The archive also has a list outside its folder, and the images stand before the lists.
    return {**files, **{top + name: lines(text) for name, text in lists.items()}, "attributes.txt": b"1 has_bill\n"}


def cub200(folder: Path) -> Path:
    return tar(folder / "CUB_200_2011.tgz", cub200_files())


def nabirds_files() -> Files:
    """NABirds: ids are UUIDs, whose dashes the paths lack; classes.txt names the nodes of a hierarchy, in any order."""
    nodes = {
        0: "Birds",
        1: "Ducks, Geese, and Swans",
        817: "Oak Titmouse",
        295: "Mallard (Male)",
        302: "Oak Titmouse",
    }
    rows = [(label, split) for label in (817, 295, 302) for split in (["1"] * TRAIN + ["0"] * TEST)]
    ids = [str(uuid.UUID(int=0x1234567890 * (n + 1))) for n in range(len(rows))]
    paths = [f"{label:04d}/{key.replace('-', '')}.jpg" for key, (label, _) in zip(ids, rows, strict=True)]
    lists = {
        "images.txt": [f"{key} {path}" for key, path in zip(ids, paths, strict=True)],
        "image_class_labels.txt": [f"{key} {label}" for key, (label, _) in zip(ids, rows, strict=True)],
        "train_test_split.txt": [f"{key} {split}" for key, (_, split) in zip(ids, rows, strict=True)],
        "classes.txt": [f"{number} {name}" for number, name in nodes.items()],
        "hierarchy.txt": ["817 1", "295 1", "302 1", "1 0"],
    }
    files = {f"nabirds/images/{path}": photo(100 + n) for n, path in enumerate(paths)}
    return {**{f"nabirds/{name}": lines(text) for name, text in lists.items()}, **files}


def nabirds(folder: Path) -> Path:
    return tar(folder / "nabirds.tar.gz", nabirds_files())


def mat(**values: object) -> bytes:
    buffer = io.BytesIO()
    savemat(buffer, values)
    return buffer.getvalue()


def cells(values: list[str]) -> np.ndarray:
    """A column of MATLAB cells."""
    column = np.empty((len(values), 1), dtype=object)
    column[:, 0] = values
    return column


def flowers102_files() -> Files:
    """Flowers-102: ids from 1 in three sets of one row each, unordered, and float numbers as MATLAB writes them."""
    count = 3 * (TRAIN + VAL + TEST)
    order = np.random.default_rng(0).permutation(count) + 1
    labels = [0] * count
    sets: dict[str, list[int]] = {"trnid": [], "valid": [], "tstid": []}
    for at, number in enumerate(order):
        label, place = at % 3 + 1, at // 3
        labels[number - 1] = label
        sets["trnid" if place < TRAIN else "valid" if place < TRAIN + VAL else "tstid"].append(int(number))
    return {
        **{f"jpg/image_{n:05d}.jpg": photo(200 + n) for n in range(1, count + 1)},
        "imagelabels.mat": mat(labels=np.array([labels], dtype=np.uint8)),
        "setid.mat": mat(**{name: np.array([ids], dtype=np.float64) for name, ids in sets.items()}),
    }


def flowers102(folder: Path) -> Path:
    files = flowers102_files()
    tar(folder / "102flowers.tgz", {name: data for name, data in files.items() if name.startswith("jpg/")})
    return loose(folder, {name: data for name, data in files.items() if name.endswith(".mat")})


DOGS = ("n02085620-Chihuahua", "n02088094-Afghan_hound", "n02086910-papillon")


def stanford_dogs_files(*, annotations_as_files: bool = False) -> Files:
    """Stanford Dogs: columns of cells; annotations are named without .jpg."""
    files: Files = {}
    for split, count, first in (("train", TRAIN, 0), ("test", TEST, 50)):
        rows = [(dog, label, n) for label, dog in enumerate(DOGS, start=1) for n in range(first, first + count)]
        names = [f"{dog}/{dog.split('-')[0]}_{n}" for dog, _, n in rows]
        files |= {
            f"Images/{name}.jpg": photo(300 + 100 * label + n) for name, (_, label, n) in zip(names, rows, strict=True)
        }
        files[f"{split}_list.mat"] = mat(
            file_list=cells(names if annotations_as_files else [f"{name}.jpg" for name in names]),
            annotation_list=cells(names),
            labels=np.array([[label] for _, label, _ in rows], dtype=np.uint8),
        )
    return files


def stanford_dogs(folder: Path) -> Path:
    files = stanford_dogs_files()
    tar(folder / "images.tar", {name: data for name, data in files.items() if name.startswith("Images/")})
    tar(folder / "lists.tar", {name: data for name, data in files.items() if name.endswith(".mat")})
    return folder


CARS = ("AM General Hummer SUV 2000", "Acura RL Sedan 2012", "Ram C/V Cargo Van Minivan 2012")


def stanford_cars_files() -> Files:
    """Stanford Cars: a row of structs whose every field is an array of objects; test labels in a file of their own."""
    files: Files = {"devkit/cars_meta.mat": mat(class_names=cells(list(CARS)).T)}
    for split, count in (("train", TRAIN), ("test", TEST)):
        rows = [(n + 1, n % len(CARS) + 1) for n in range(count * len(CARS))]
        boxes = [(f"bbox_{axis}", np.uint16(3)) for axis in ("x1", "y1", "x2", "y2")]
        plain = [{**dict(boxes), "fname": f"{n:05d}.jpg"} for n, _ in rows]
        labelled = [{**one, "class": np.uint8(label)} for one, (_, label) in zip(plain, rows, strict=True)]
        files |= {f"cars_{split}/{n:05d}.jpg": photo(1000 + 100 * (split == "test") + n) for n, _ in rows}
        files[f"devkit/cars_{split}_annos.mat"] = mat(annotations=structs(labelled if split == "train" else plain))
        if split == "test":
            files["cars_test_annos_withlabels.mat"] = mat(annotations=structs(labelled))
    return files


def structs(rows: list[dict[str, object]]) -> np.ndarray:
    """A row of MATLAB structs."""
    array = np.empty((1, len(rows)), dtype=[(name, object) for name in rows[0]])
    for at, row in enumerate(rows):
        array[0, at] = tuple(row.values())
    return array


def stanford_cars(folder: Path) -> Path:
    files = stanford_cars_files()
    parts = {"cars_train.tgz": "cars_train/", "cars_test.tgz": "cars_test/", "car_devkit.tgz": "devkit/"}
    for archive, top in parts.items():
        tar(folder / archive, {name: data for name, data in files.items() if name.startswith(top)})
    return loose(folder, {name: data for name, data in files.items() if "/" not in name})


FINE = ("apple", "aquarium_fish", "baby")


def cifar_rows(split: str) -> tuple[list[int], np.ndarray]:
    """Fine labels, and pixels as CIFAR lays them out: all red, then all green, then all blue."""
    count = (TRAIN if split == "train" else TEST) * len(FINE)
    rng = np.random.default_rng(count)
    return [n % len(FINE) for n in range(count)], rng.integers(0, 256, (count, 3072), dtype=np.uint8)


def cifar100_python_files() -> Files:
    files = {}
    for split in ("train", "test"):
        fine, pixels = cifar_rows(split)
        names = [f"photo_s_{n:06d}.png" for n in range(len(fine))]
        files[f"cifar-100-python/{split}"] = python2_pickle(
            {"data": pixels, "batch_label": f"{split}ing batch 1 of 1", "fine_labels": fine,
             "coarse_labels": [0] * len(fine), "filenames": names}
        )  # fmt: skip
    meta = {"fine_label_names": list(FINE), "coarse_label_names": ["all"]}
    return {**files, "cifar-100-python/meta": python2_pickle(meta), "cifar-100-python/file.txt~": b""}


def cifar100_binary_files() -> Files:
    files = {}
    for split in ("train", "test"):
        fine, pixels = cifar_rows(split)
        rows = [bytes([0, label]) + row.tobytes() for label, row in zip(fine, pixels, strict=True)]
        files[f"cifar-100-binary/{split}.bin"] = b"".join(rows)
    names = {"fine": FINE, "coarse": ("all",)}
    return {**files, **{f"cifar-100-binary/{kind}_label_names.txt": lines(list(n)) for kind, n in names.items()}}


def cifar100(folder: Path) -> Path:
    return tar(folder / "cifar-100-python.tar.gz", cifar100_python_files())


def cifar100_binary(folder: Path) -> Path:
    return tar(folder / "cifar-100-binary.tar.gz", cifar100_binary_files())


def python2_pickle(value: object) -> bytes:
    """Pickle as Python 2 did, byte strings for text and for the content of arrays."""
    return pickle.PROTO + b"\x02" + _python2(value) + pickle.STOP


def _python2(value: object) -> bytes:
    if isinstance(value, str | bytes):
        raw = value.encode() if isinstance(value, str) else value
        return pickle.BINSTRING + struct.pack("<i", len(raw)) + raw
    if isinstance(value, int):
        return pickle.BININT + struct.pack("<i", value)
    if isinstance(value, list):
        return pickle.EMPTY_LIST + pickle.MARK + b"".join(map(_python2, value)) + pickle.APPENDS
    if isinstance(value, dict):
        items = b"".join(_python2(key) + _python2(item) for key, item in value.items())
        return pickle.EMPTY_DICT + pickle.MARK + items + pickle.SETITEMS
    assert isinstance(value, np.ndarray)
    kind = b"cnumpy\ndtype\n" + pickle.MARK + _python2("u1") + _python2(0) + _python2(1) + pickle.TUPLE + pickle.REDUCE
    order = [_python2(3), _python2("|"), *[pickle.NONE] * 3, *[_python2(-1)] * 2, _python2(0)]
    kind += pickle.MARK + b"".join(order) + pickle.TUPLE + pickle.BUILD
    make = b"cnumpy.core.multiarray\n_reconstruct\n" + pickle.MARK + b"cnumpy\nndarray\n"
    make += pickle.MARK + _python2(0) + pickle.TUPLE + _python2("b") + pickle.TUPLE + pickle.REDUCE
    shape = pickle.MARK + b"".join(map(_python2, value.shape)) + pickle.TUPLE
    state = pickle.MARK + _python2(1) + shape + kind + pickle.NEWFALSE + _python2(value.tobytes()) + pickle.TUPLE
    return make + state + pickle.BUILD


ARCHIVES: Mapping[str, Callable[[Path], Path]] = {
    "cub200": cub200,
    "nabirds": nabirds,
    "flowers102": flowers102,
    "stanford_dogs": stanford_dogs,
    "stanford_cars": stanford_cars,
    "cifar100": cifar100,
}
"""For each reader: write the official archives into a folder."""

FILES: Mapping[str, Callable[[], Files]] = {
    "cub200": cub200_files,
    "nabirds": nabirds_files,
    "flowers102": flowers102_files,
    "stanford_dogs": stanford_dogs_files,
    "stanford_cars": stanford_cars_files,
    "cifar100": cifar100_python_files,
}
"""For each reader: all files that the archives hold."""
