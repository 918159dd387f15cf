"""Data: prepare."""

import re
from pathlib import Path
from typing import Annotated

import typer

from pipelines.commands.options import console
from utuning.errors import ConfigError


def prepare(
    source: Annotated[Path, typer.Option("--from", help="an archive, or a folder: see below")],
    to: Annotated[str, typer.Option(help="the folder to write Parquet shards to, or a URI such as s3://bucket/folder")],
    reader: Annotated[str, typer.Argument(help="how to read it: see below")] = "folder",
    name: Annotated[str | None, typer.Option(help="the data set's name; the reader's or source's if left out")] = None,
    lists: Annotated[list[str] | None, typer.Option("--list", help="SPLIT=FILE of `path, class id` lines")] = None,
    classes: Annotated[Path | None, typer.Option(help="CSV of class names and ids")] = None,
    image_column: Annotated[str | None, typer.Option(help="the images' column of Parquet files")] = None,
    label_column: Annotated[str | None, typer.Option(help="the labels' column of Parquet files")] = None,
    protocol: Annotated[str, typer.Option(help="vpt, trainval-final or official: where val comes from")] = "vpt",
    val_fraction: Annotated[float, typer.Option(help="share of train that becomes val where there is none")] = 0.1,
    test_fraction: Annotated[float | None, typer.Option(help="share that becomes test where there is none")] = None,
    subset: Annotated[bool, typer.Option("--subset", help="accept a part of a known data set, and mark it so")] = False,
    skip_corrupt: Annotated[bool, typer.Option(help="leave damaged images out and count them")] = False,
    shorter_side: Annotated[
        int | None,
        typer.Option(help="store larger images with a shorter side of so many pixels, as JPEGs of quality 95"),
    ] = None,
    overwrite: Annotated[bool, typer.Option(help="replace what is there")] = False,
    work: Annotated[Path | None, typer.Option(help="folder for unpacked archives and notes to go on from")] = None,
) -> None:
    """Turn images into Parquet shards that Hugging Face `datasets` reads too. Called again, it goes on.

    Example: utuning prepare cub200 --from CUB_200_2011.tgz --to data/cub200
    """
    from pipelines.data.bar import progress_bar
    from pipelines.data.datasets import prepare_source
    from utuning.data.shrinking import stored_as

    if re.match(r"\w+:/", str(source)):
        raise ConfigError(f"--from is a path of this machine, given {str(source)!r}; copy the archive here first")
    terminal = console()
    with progress_bar(terminal) as progress:
        info = prepare_source(
            reader,
            source,
            to,
            name=name,
            lists=_pairs(lists or []),
            classes=classes,
            image_column=image_column,
            label_column=label_column,
            subset=subset,
            protocol=protocol,
            val_fraction=val_fraction,
            test_fraction=test_fraction,
            skip_corrupt=skip_corrupt,
            shorter_side=shorter_side,
            overwrite=overwrite,
            work=work,
            progress=progress,
        )
    counts = ", ".join(f"{count:,} {split}" for split, count in info.counts.items())
    part = ", a subset" if info.subset else ""
    terminal.print(f"{info.path}: {counts} images of {len(info.class_names)} classes{part}", highlight=False)
    facts = f"data version {info.fingerprint}; val: {info.val}; images: {stored_as(info.shorter_side)}"
    terminal.print(facts, highlight=False, soft_wrap=True)
    for note in (*info.warnings, *(f"skipped {path}" for path in info.skipped)):
        terminal.print(f"[yellow]note[/yellow] {note}", highlight=False)


def _pairs(given: list[str]) -> dict[str, Path]:
    pairs = dict(item.partition("=")[::2] for item in given)
    if any(not file for file in pairs.values()):
        raise ConfigError(f"--list wants SPLIT=FILE, such as train=train.txt; given {', '.join(given)}")
    return {split: Path(file) for split, file in pairs.items()}
