"""The two files that describe a stored data set, one for this package and one for people."""

import json
from pathlib import Path

from utuning.data.info import INFO_FILE, DatasetInfo


def write_descriptions(folder: Path, info: DatasetInfo) -> None:
    """Write `dataset.json`, and a README that tells `datasets` where the splits are."""
    text = json.dumps(info.as_dict(), indent=2, ensure_ascii=False)
    (folder / INFO_FILE).write_text(text + "\n", encoding="utf-8")
    files = "".join(f"  - split: {s}\n    path: data/{s}-*.parquet\n" for s in info.counts)
    rows = "".join(f"- {split}: {count} images\n" for split, count in info.counts.items())
    (folder / "README.md").write_text(
        f"---\npretty_name: {json.dumps(info.name)}\ntask_categories:\n- image-classification\n"
        f"configs:\n- config_name: default\n  data_files:\n{files}---\n\n"
        f"# {info.name}\n\n{info.description}\n\n{len(info.class_names)} classes\n\n{rows}",
        encoding="utf-8",
    )
