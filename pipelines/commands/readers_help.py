"""What `utuning prepare --help` says of each reader."""

from utuning.data.fgvc.table import READERS

_OWN = {
    "folder": "class folders: SPLIT/CLASS/IMAGE with train, val and test, or CLASS/IMAGE, which is all train (add "
    "--test-fraction); with --list, whatever folders the list files name.",
    "parquet": "a Parquet file or a folder of them, such as a data set of the Hugging Face hub: images as bytes or as "
    "structs of bytes and path, labels as texts or numbers; the split is in the file's or the folder's name.",
}


def readers_help() -> str:
    """One paragraph a reader."""
    known = {row.name: f"{row.title}. {row.about}" for row in READERS.values()}
    parts = [f"[bold]{name}[/bold]: {text}" for name, text in (_OWN | known).items()]
    return "\n\n".join(["[bold]Readers[/bold]", *parts])
