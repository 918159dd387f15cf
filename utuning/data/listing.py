"""What a reader of a known data set hands over, and what such a set is known to hold."""

from collections import Counter
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import partial

from utuning.data.examples import Packed, Source
from utuning.data.faults import fault, shorten
from utuning.data.tree import Tree


@dataclass(frozen=True, kw_only=True)
class Listing:
    """The images of a data set in the order of its lists, none of them read; and those listed but not there."""

    images: Sequence[Source]
    class_names: Sequence[str]
    missing: Sequence[str] = ()


@dataclass(frozen=True, kw_only=True)
class Expected:
    """What the official data set holds: images of each split, and of each class of it where all have as many.

    `published` are the counts after the division of train that comparisons use; nobody could check them.
    """

    num_classes: int
    counts: Mapping[str, int]
    per_class: Mapping[str, int] = field(default_factory=dict)
    published: Mapping[str, int] = field(default_factory=dict)


@dataclass(frozen=True, kw_only=True)
class Reader:
    """One known data set: its row in the table.

    `archives` are the names, without suffix, of the official archives to look for in a folder, and one file or folder
    that each holds. `about` says where they come from and what they must look like.
    """

    name: str
    title: str
    about: str
    read: Callable[[Tree], Listing]
    archives: Mapping[str, str]
    expected: Expected


def list_images(tree: Tree, rows: Iterable[tuple[str, int, str]], names: Mapping[int, str]) -> Listing:
    """Look up the images of a tree that `(path, class id, split)` rows name; classes are ordered by their ids."""
    rows = list(rows)
    used = sorted({number for _, number, _ in rows})
    if unnamed := [str(number) for number in used if number not in names]:
        raise fault(
            f"{tree.given!r} has images of {len(unnamed)} classes without a name: {shorten(unnamed)}",
            "a name for each class id",
            "fetch the original lists again",
        )
    labels = _distinct({number: names[number] for number in used})
    there = [row for row in rows if row[0] in tree]
    return Listing(
        images=[
            Packed(path=path, label=labels[number], split=split, read=partial(tree.read, path))
            for path, number, split in there
        ],
        class_names=[labels[number] for number in used],
        missing=sorted({path for path, _, _ in rows} - {path for path, _, _ in there}),
    )


def numbered_lines(tree: Tree, name: str) -> dict[str, str]:
    """Read a list of `id value` lines; a value may hold spaces."""
    found: dict[str, str] = {}
    for number, line in enumerate(tree.text(name).splitlines(), start=1):
        if not line.strip():
            continue
        key, _, value = line.strip().partition(" ")
        if not value.strip() or key in found:
            raise fault(
                f"Line {number} of {name!r} of {tree.given!r} reads {line!r}",
                "an id that occurs once, a space, and a value",
                "fetch the original list again",
            )
        found[key] = value.strip()
    return found


def whole(text: str, where: str) -> int:
    """Read a whole number."""
    if not text.isdecimal():
        raise fault(f"{where} holds {text!r}", "whole numbers", "fetch the original list again")
    return int(text)


def _distinct(names: Mapping[int, str]) -> dict[int, str]:
    often = Counter(names.values())
    return {number: f"{name} ({number})" if often[name] > 1 else name for number, name in names.items()}
