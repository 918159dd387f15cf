"""The smoke tier of every known data set, from archives to champion, in one process; see `test_spaces.py`."""

import sys
from contextlib import nullcontext
from dataclasses import replace
from pathlib import Path

from rich.console import Console

from cluster.profile import load_profile
from pipelines.cohorts import crew
from pipelines.cohorts.session import ray_session, set_environment
from pipelines.data.datasets import prepare_source
from pipelines.workflows.launch import launch
from pipelines.workspace import Workspace
from tests.archives import ARCHIVES


def main(root: Path) -> None:
    """Search all of them into `root/runs`, one after another, in one session of Ray."""
    # One worker, and one trial at a time: as few processes as a search can have.
    profile = replace(load_profile("local", num_workers=1), max_cohorts=1, max_members=1)
    workspace = Workspace(root / "runs")
    set_environment(profile)
    with ray_session(profile) as resources:
        crew.ray_session = lambda profile: nullcontext(resources)  # Ray would start anew for each
        for name, write in ARCHIVES.items():
            archives, prepared = root / "archives" / name, root / "prepared" / name
            archives.mkdir(parents=True)
            prepare_source(name, write(archives), str(prepared), subset=True)
            changes = ["dataset.source=parquet", f"dataset.path={prepared}", "train.batch_size=4"]
            launch(name, changes, Console(stderr=True), tier="smoke", profile=profile, workspace=workspace)


if __name__ == "__main__":
    main(Path(sys.argv[1]))
