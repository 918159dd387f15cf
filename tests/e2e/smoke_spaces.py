"""The smoke tier of every known data set, from its archives to its champion, in one process; see `test_spaces.py`."""

import sys
from pathlib import Path

from rich.console import Console

from cluster.profile import load_profile
from pipelines.datasets import prepare_source
from pipelines.launch import launch
from pipelines.workspace import Workspace
from tests.archives import ARCHIVES


def main(root: Path) -> None:
    """Search all of them into `root/runs`."""
    console = Console(stderr=True)
    for name, write in ARCHIVES.items():
        archives, prepared = root / "archives" / name, root / "prepared" / name
        archives.mkdir(parents=True)
        prepare_source(name, write(archives), str(prepared), subset=True)
        changes = ["dataset.source=parquet", f"dataset.path={prepared}", "train.batch_size=4"]
        launch(name, changes, console, tier="smoke", profile=load_profile("local"), workspace=Workspace(root / "runs"))


if __name__ == "__main__":
    main(Path(sys.argv[1]))
