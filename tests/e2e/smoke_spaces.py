"""The smoke tier of every known data set, from archives to champion, in one process; see `test_spaces.py`."""

import sys
from contextlib import nullcontext
from dataclasses import replace
from pathlib import Path

from rich.console import Console

from cluster.profile import load_profile
from pipelines import launch as launching
from pipelines.crew import starting_crew
from pipelines.datasets import prepare_source
from pipelines.workspace import Workspace
from tests.archives import ARCHIVES


def main(root: Path) -> None:
    """Search all of them into `root/runs`, one after another, with one crew."""
    # One worker, and one trial at a time: as few processes as a search can have.
    profile = replace(load_profile("local", num_workers=1), max_cohorts=1, max_members=1)
    workspace = Workspace(root / "runs")
    with starting_crew(profile, workspace, isolated=False) as crew_for:
        # Ray and the service would start anew for each: half of what these searches take.
        launching.starting_crew = lambda *given, **named: nullcontext(crew_for)
        for name, write in ARCHIVES.items():
            archives, prepared = root / "archives" / name, root / "prepared" / name
            archives.mkdir(parents=True)
            prepare_source(name, write(archives), str(prepared), subset=True)
            changes = ["dataset.source=parquet", f"dataset.path={prepared}", "train.batch_size=4"]
            launching.launch(name, changes, Console(stderr=True), tier="smoke", profile=profile, workspace=workspace)


if __name__ == "__main__":
    main(Path(sys.argv[1]))
