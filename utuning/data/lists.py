"""Finding labelled images: list files with one image a line."""

import csv
import re
from collections.abc import Mapping
from pathlib import Path

from utuning.data.examples import SPLITS, ImageRef
from utuning.data.faults import fault, shorten
from utuning.errors import DataError


def list_examples(root: Path, lists: Mapping[str, Path], *, classes: Path | None = None) -> list[ImageRef]:
    """List the images that the list file of each split names, as paths below `root`.

    A line holds a relative path and a class id, separated by a comma or white space; further
    columns are ignored. `classes` is a CSV file that names the ids; without it, the ids
    themselves are the class names.
    """
    names = None if classes is None else read_class_names(classes)
    if unknown := sorted(set(lists) - set(SPLITS)):
        raise fault(
            f"Lists were given for {shorten(unknown)}",
            f"the splits {', '.join(SPLITS)}",
            "rename the split of the list",
        )
    return [ref for split, file in lists.items() for ref in _read_list(root, split, file, names)]


def read_class_names(file: Path) -> dict[int, str]:
    """Read a CSV file whose header has a column with "name" and one with "id"."""
    rows = [row for row in csv.reader(_text(file).splitlines()) if any(c.strip() for c in row)]
    header = [cell.lower() for cell in rows[0]] if rows else []
    name_at, id_at = _column(header, "name"), _column(header, "id")
    if name_at is None or id_at is None:
        raise fault(
            f"The class file {str(file)!r} has the columns {shorten(header)}",
            'a CSV file whose header has a column with "name" and another with "id"',
            "add the header line",
        )
    names: dict[int, str] = {}
    for row in rows[1:]:
        try:
            number, name = int(row[id_at]), row[name_at].strip()
        except (ValueError, IndexError) as error:
            raise _bad_row(file, row, "has no whole number as its id and a name") from error
        if not name or number in names or name in names.values():
            raise _bad_row(file, row, "repeats an id or a name, or has an empty name")
        names[number] = name
    return names


def _bad_row(file: Path, row: list[str], what: str) -> DataError:
    return fault(
        f"A row of the class file {str(file)!r} {what}: {','.join(row)!r}",
        "one row a class, with an id and a name of its own",
        "correct the row",
    )


def _column(header: list[str], word: str) -> int | None:
    words = [re.split(r"[^a-z0-9]+", cell) for cell in header]
    exact = [at for at, cell in enumerate(words) if word in cell]
    loose = [at for at, cell in enumerate(words) if any(part.endswith(word) for part in cell)]
    return next(iter(exact + loose), None)


def _text(file: Path) -> str:
    try:
        return file.read_text(encoding="utf-8-sig")
    except (OSError, UnicodeDecodeError) as error:
        raise fault(
            f"The file {str(file)!r} cannot be read ({error})",
            "UTF-8 text files that exist",
            "check the path",
        ) from error


def _read_list(root: Path, split: str, file: Path, names: dict[int, str] | None) -> list[ImageRef]:
    refs = []
    for number, line in enumerate(_text(file).splitlines(), start=1):
        if line.strip():
            path, label = _parse_line(line, f"{file}:{number}", names)
            refs.append(ImageRef(path=path, label=label, split=split, file=root / path))
    return refs


def _parse_line(line: str, where: str, names: dict[int, str] | None) -> tuple[str, str]:
    cells = line.split(",") if "," in line else line.split()
    try:
        path, number = cells[0].strip(), int(cells[1])
    except (IndexError, ValueError) as error:
        raise fault(
            f"{where} reads {line.strip()!r}",
            'lines such as "folder/image.jpg, 12", the second column a whole number',
            "correct the line",
        ) from error
    if names is None:
        return path, str(number)
    if number not in names:
        raise fault(
            f"{where} has the class id {number}",
            f"the {len(names)} ids of the class file",
            "correct the id or add it to the class file",
        )
    return path, names[number]
