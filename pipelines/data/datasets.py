"""From a space's dataset section to prepared Parquet shards, once for each content."""

import os
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

import pyarrow as pa

from pipelines.data.source_layout import is_prepared
from pipelines.workspace import Workspace
from search_spaces.space import DatasetSpec
from utuning.configs import digest
from utuning.data.examples import ImageRef
from utuning.data.faults import Progress, fault
from utuning.data.fgvc.table import READERS
from utuning.data.known import prepare_known
from utuning.data.prepare import Known, prepare
from utuning.data.protocols import find_protocol
from utuning.data.readers import folder_examples, list_examples
from utuning.data.shards import DatasetInfo, open_dataset
from utuning.data.shrinking import stored_as
from utuning.data.stored import SplitRef, shared_split
from utuning.data.tables import table_examples
from utuning.errors import ConfigError, DataError, nearest

SEARCHED = ("train", "val")
"""The splits that a search reads; test is read by the finals alone."""


def prepared(
    spec: DatasetSpec, workspace: Workspace, progress: Progress | None = None, *, protocol: str = "vpt"
) -> DatasetInfo:
    """Open the data set of a space, preparing it first where that has not been done for these very files.

    `protocol` decides where its val comes from, unless it was prepared before.

    Raises:
        DataError: data that is missing, damaged or inconsistent.
    """
    if spec.source == "drawn":
        return _drawn(spec, workspace, progress)
    if is_prepared(spec):
        return _as_wanted(open_dataset(_given(spec)), spec)
    options: dict[str, Any] = {
        "name": spec.name,
        "protocol": protocol,
        "val_fraction": spec.val_fraction,
        "test_fraction": spec.test_fraction,
        "seed": spec.seed,
        "skip_corrupt": spec.skip_corrupt,
        "shorter_side": spec.shorter_side,
        "progress": progress,
    }
    if spec.source in ("folder", "lists"):
        refs = folder_examples(_path(spec)) if spec.source == "folder" else _listed(spec)
        facts = sorted((ref.split, ref.label, str(ref.file), _changed(ref.file)) for ref in refs)
        to = workspace.data(f"{spec.name}-{_state(spec, protocol, facts)}")
        return open_dataset(to) if to.exists() else prepare(refs, to, **options)
    _check_there(spec)
    to = workspace.data(f"{spec.name}-{_state(spec, protocol, _files(_path(spec)))}")
    if to.exists():
        return open_dataset(to)
    return prepare_source(spec.source, _path(spec), str(to), subset=spec.subset, **options)


def searched_splits(info: DatasetInfo) -> dict[str, pa.Table | SplitRef]:
    """The splits that a search may read: all that its workers ever get. Test is not among them."""
    return {split: shared_split(info, split) for split in SEARCHED}


def prepare_source(
    reader: str,
    source: Path,
    to: str,
    *,
    name: str | None = None,
    lists: Mapping[str, Path] | None = None,
    classes: Path | None = None,
    image_column: str | None = None,
    label_column: str | None = None,
    subset: bool = False,
    **options: Any,
) -> DatasetInfo:
    """Prepare what a user points at; `options` are those of `utuning.data.prepare.prepare`.

    Args:
        reader: folder, parquet or a known data set.
        source: where the files are.
        to: a local folder or the URI of one.
        name: the data set's name; the reader's or the source's if left out.
        lists: list files of the folder's images, by split.
        classes: a CSV file that names the ids of the lists.
        image_column: the column of images of Parquet files.
        label_column: the column of labels of Parquet files.
        subset: accept a part of a known data set.

    Raises:
        ConfigError: an unknown reader, or an option that it does not take.
        DataError: data that is missing, damaged or inconsistent.
    """
    given = {"list": lists, "classes": classes, "image-column": image_column, "label-column": label_column}
    _check_options(reader, {**given, "subset": subset})
    if reader in READERS:
        return prepare_known(READERS[reader], source, to, name=name, subset=subset, **options)
    name = name or source.resolve().name
    if reader == "folder":
        refs = list_examples(source, lists, classes=classes) if lists else folder_examples(source)
        return prepare(refs, to, name=name, **options)
    images, names = table_examples(source, image=image_column, label=label_column)
    return prepare(images, to, name=name, known=Known(reader=reader, class_names=names), **options)


def _check_options(reader: str, given: Mapping[str, Any]) -> None:
    """Refuse an unknown reader, and options that a reader would not look at."""
    taken = {"folder": {"list", "classes"}, "parquet": {"image-column", "label-column"}} | {
        name: {"subset"} for name in READERS
    }
    if reader not in taken:
        raise ConfigError(f"the reader is {reader!r}; {nearest(reader, list(taken))}")
    for option, value in given.items():
        if value and option not in taken[reader]:
            of = ", ".join(name for name, options in taken.items() if option in options)
            raise ConfigError(f"--{option} is not for the reader {reader!r}; it is for {of}; leave it out")
    if given["classes"] and not given["list"]:
        raise ConfigError("--classes names the ids of list files, and there are none; give --list SPLIT=FILE too")


def _drawn(spec: DatasetSpec, workspace: Workspace, progress: Progress | None) -> DatasetInfo:
    from utuning.demo.dataset import demo_examples

    to = workspace.data(f"{spec.name}-seed{spec.seed}")
    return open_dataset(to) if to.exists() else prepare(demo_examples(spec.seed), to, name=spec.name, progress=progress)


def _as_wanted(info: DatasetInfo, spec: DatasetSpec) -> DatasetInfo:
    """A data set that was prepared before, if its images are stored as the space wants them."""
    if spec.shorter_side not in (None, info.shorter_side):
        raise DataError(
            f"dataset.shorter_side is {spec.shorter_side}, and the images at {spec.path!r} are stored "
            f"{stored_as(info.shorter_side)!r}; leave it out to take them so, or prepare them again with "
            f"--shorter-side {spec.shorter_side}"
        )
    return info


def _check_there(spec: DatasetSpec) -> None:
    """Say of a known data set that is not where its space looks for it how to go on."""
    if spec.source in READERS and not _path(spec).exists():
        row = READERS[spec.source]
        raise fault(
            f"The data set {spec.name!r} is not at dataset.path={spec.path}",
            row.about.rstrip("."),
            "give dataset.path=PATH, or prepare it before; --ahead plans without it",
        )


def _listed(spec: DatasetSpec) -> list[ImageRef]:
    if not spec.lists:
        raise DataError(
            "dataset.lists is missing; name a list file for each split, such as {train: train.txt, test: test.txt}"
        )
    root = _path(spec)
    lists = {split: _beside(root, file) for split, file in spec.lists.items()}
    return list_examples(root, lists, classes=_beside(root, spec.classes) if spec.classes else None)


def _given(spec: DatasetSpec) -> str:
    if spec.path is None:
        raise DataError(f"dataset.path is missing; a {spec.source} data set needs it: add dataset.path=FOLDER")
    return spec.path


def _path(spec: DatasetSpec) -> Path:
    return Path(_given(spec)).expanduser()


def _beside(root: Path, file: str) -> Path:
    return root / Path(file).expanduser()


def _state(spec: DatasetSpec, protocol: str, facts: Sequence[Any]) -> str:
    """Change with the files and with where val comes from: a new, removed or edited file makes another folder."""
    return digest({"spec": asdict(spec), "val_from_train": find_protocol(protocol).holds_out, "files": facts})


def _files(path: Path) -> list[Any]:
    """What changes with a file, or with any file of a folder."""
    if not path.is_dir():
        return [(path.name, _changed(path))]
    files = (Path(folder, name) for folder, _, names in os.walk(path, followlinks=True) for name in names)
    return sorted((str(file.relative_to(path)), _changed(file)) for file in files)


def _changed(file: Path) -> tuple[int, int]:
    try:
        status = file.stat()
    except OSError:
        return (0, 0)
    return (status.st_size, status.st_mtime_ns)
