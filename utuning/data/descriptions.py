"""The two files that describe a stored data set, one for this package and one for people."""

import json

from utuning.data.info import INFO_FILE, DatasetInfo
from utuning.data.places import Place
from utuning.data.shrinking import stored_as

README_FILE = "README.md"


def write_descriptions(place: Place, info: DatasetInfo) -> None:
    """Write a README that tells `datasets` where the splits are, and at last `dataset.json`."""
    files = "".join(f"  - split: {s}\n    path: data/{s}-*.parquet\n" for s in info.counts)
    rows = "".join(f"- {split}: {count} images\n" for split, count in info.counts.items())
    readme = (
        f"---\npretty_name: {json.dumps(info.name)}\ntask_categories:\n- image-classification\n"
        f"configs:\n- config_name: default\n  data_files:\n{files}---\n\n"
        f"# {info.name}\n\n{info.description}\n\n{len(info.class_names)} classes\n\n{rows}{_shrunk(info)}"
    )
    place.write(README_FILE, readme.encode())
    text = json.dumps(info.as_dict(), indent=2, ensure_ascii=False)
    place.write(INFO_FILE, f"{text}\n".encode())


def _shrunk(info: DatasetInfo) -> str:
    return "" if info.shorter_side is None else f"\nImages are stored anew: {stored_as(info.shorter_side)}.\n"
