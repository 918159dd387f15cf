"""Finding labelled images: class folders."""

import os
from collections import Counter
from collections.abc import Iterator
from pathlib import Path

from utuning.data.examples import SPLITS, ImageRef
from utuning.data.faults import fault, shorten
from utuning.data.lists import list_examples

__all__ = ["folder_examples", "image_files", "list_examples"]

_IMAGE_SUFFIXES = frozenset(
    [".jpg", ".jpeg", ".jfif", ".png", ".bmp", ".gif", ".webp", ".tif", ".tiff", ".ppm", ".pgm"]
)
_ALIASES = {"train": "train", "val": "val", "valid": "val", "validation": "val", "test": "test"}


def folder_examples(root: Path) -> list[ImageRef]:
    """List the images of `root/<split>/<class>/…`, or of `root/<class>/…` as all "train".

    The class is the name of the folder that holds the image; where a split has folders of equal
    name under different parents, it is their path below the split. Hidden files are left out.
    """
    files = [(split, folder, file) for split, top in split_folders(root).items() for folder, file in _images(top)]
    if not files:
        raise fault(
            f"The folder {str(root)!r} holds no images",
            f"class folders with files ending in {', '.join(sorted(_IMAGE_SUFFIXES))}",
            "check the path",
        )
    labels = _labels({(split, folder) for split, folder, _ in files})
    return [
        ImageRef(path=file.relative_to(root).as_posix(), label=labels[folder], split=split, file=file)
        for split, folder, file in files
    ]


def image_files(folder: Path) -> list[Path]:
    """List the image files anywhere below a folder, whatever their classes, sorted; hidden ones are left out.

    Raises:
        DataError: there are none.
    """
    found = sorted(
        file
        for file in folder.rglob("*")
        if file.suffix.lower() in _IMAGE_SUFFIXES and file.is_file() and not file.name.startswith(".")
    )
    if not found:
        raise fault(
            f"The folder {str(folder)!r} holds no images",
            f"a folder with files ending in {', '.join(sorted(_IMAGE_SUFFIXES))}",
            "check the path",
        )
    return found


def split_folders(root: Path) -> dict[str, Path]:
    """Find the folder of each split; the whole folder is train where there are none.

    Raises:
        DataError: no such folder, or split folders of which it is unclear what they are.
    """
    if not root.is_dir():
        raise fault(f"The folder {str(root)!r} does not exist", "a folder with images", "check the path")
    names = sorted(child.name for child in root.iterdir() if child.is_dir())
    found = [name for name in names if name in _ALIASES]
    splits = {_ALIASES[name]: root / name for name in found}
    if not found or ("train" not in splits and len(found) < len(names)):
        return {"train": root}
    if len(splits) < len(found) or "train" not in splits:
        raise fault(
            f"The folder {str(root)!r} has the split folders {shorten(found)}",
            "train, and at most one each of val (or valid, validation) and test",
            "rename or merge the split folders",
        )
    return {split: splits[split] for split in SPLITS if split in splits}


def _images(top: Path) -> Iterator[tuple[str, Path]]:
    for place, folders, names in os.walk(top, followlinks=True):
        folders[:] = sorted(name for name in folders if not name.startswith((".", "__MACOSX")))
        for name in sorted(names):
            file = Path(place, name)
            if name.startswith(".") or file.suffix.lower() not in _IMAGE_SUFFIXES:
                continue
            if file.parent == top:
                raise fault(
                    f"The image {str(file)!r} lies in no class folder",
                    "images in one folder per class",
                    "move it into the folder of its class",
                )
            yield file.parent.relative_to(top).as_posix(), file


def _labels(folders: set[tuple[str, str]]) -> dict[str, str]:
    """Name the class of each (split, folder below it)."""
    leaves = Counter((split, _leaf(folder)) for split, folder in folders)
    ambiguous = {leaf for (_, leaf), count in leaves.items() if count > 1}
    return {folder: folder if _leaf(folder) in ambiguous else _leaf(folder) for _, folder in folders}


def _leaf(folder: str) -> str:
    return folder.rsplit("/", 1)[-1]
