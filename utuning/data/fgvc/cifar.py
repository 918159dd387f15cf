"""The two forms that CIFAR's files come in: pickles of Python 2, and rows of bytes."""

import io
from collections.abc import Callable, Sequence
from functools import partial

import numpy as np
from PIL import Image

from utuning.data.examples import Packed
from utuning.data.faults import fault
from utuning.data.listing import Listing
from utuning.data.tree import Tree
from utuning.data.unpickling import read_pickle
from utuning.errors import DataError

_PYTHON, _BINARY = ("train", "test", "meta"), ("train.bin", "test.bin", "fine_label_names.txt")
_PIXELS = 3 * 32 * 32

_Splits = dict[str, tuple[Sequence[int], np.ndarray]]
_Found = tuple[list[str], _Splits]


def list_cifar(tree: Tree) -> Listing:
    """List the images with their fine labels, from whichever form is there."""
    try:
        part = tree.at(_BINARY, "cifar-100-binary")
    except DataError:
        return _listing(tree.at(_PYTHON, "cifar-100-python"), _read_python)
    return _listing(part, _read_binary)


def _listing(tree: Tree, find: Callable[[Tree], _Found]) -> Listing:
    names, splits = find(tree)
    images = []
    for split, (labels, pixels_NP) in splits.items():
        if len(labels) != len(pixels_NP) or not all(label < len(names) for label in labels):
            raise _unfit(tree, f"{len(labels)} labels, {len(pixels_NP)} images and {len(names)} names in {split}")
        images += [
            Packed(path=f"{split}/{at:05d}.bmp", label=names[label], split=split, read=partial(_bitmap, pixels_NP, at))
            for at, label in enumerate(labels)
        ]
    return Listing(images=images, class_names=names)


def _read_python(tree: Tree) -> _Found:
    splits: _Splits = {}
    for split in ("train", "test"):
        found = read_pickle(tree.read(split), f"{split!r} of {tree.given!r}")
        try:
            splits[split] = ([int(label) for label in found["fine_labels"]], found["data"].array().reshape(-1, _PIXELS))
        except (KeyError, TypeError, ValueError, AttributeError) as error:
            raise _unfit(tree, f"{split} without images or fine labels ({type(error).__name__}: {error})") from error
    meta = read_pickle(tree.read("meta"), f"'meta' of {tree.given!r}")
    if not isinstance(meta, dict) or not isinstance(names := meta.get("fine_label_names"), list):
        raise _unfit(tree, "meta without fine_label_names")
    return [str(name) for name in names], splits


def _read_binary(tree: Tree) -> _Found:
    splits: _Splits = {}
    for split in ("train", "test"):
        data = tree.read(f"{split}.bin")
        if len(data) % (2 + _PIXELS):
            raise _unfit(tree, f"{len(data)} bytes in {split}.bin, no multiple of {2 + _PIXELS}")
        rows = np.frombuffer(data, np.uint8).reshape(-1, 2 + _PIXELS)
        splits[split] = (rows[:, 1].tolist(), rows[:, 2:])
    return tree.text("fine_label_names.txt").split(), splits


def _bitmap(pixels_NP: np.ndarray, at: int) -> bytes:
    buffer = io.BytesIO()
    Image.fromarray(np.ascontiguousarray(pixels_NP[at].reshape(3, 32, 32).transpose(1, 2, 0))).save(buffer, "BMP")
    return buffer.getvalue()


def _unfit(tree: Tree, what: str) -> DataError:
    return fault(f"{tree.given!r} has {what}", "CIFAR-100 as published", "fetch the original archive again")
