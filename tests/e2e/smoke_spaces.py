"""The smoke tier of every known data set, from archives to champion, in one Ray session; see `test_spaces.py`."""

import sys
from dataclasses import replace
from pathlib import Path

from cluster.profile import load_profile
from pipelines.crew import starting_crew
from pipelines.workspace import Workspace
from search_spaces.loader import load_space
from tests.archives import ARCHIVES


def main(root: Path) -> None:
    """Search all of them into `root/runs`."""
    workspace = Workspace(root / "runs")
    # One worker, and one trial at a time: as few processes as a search can have.
    profile = replace(load_profile("local", num_workers=1), max_cohorts=1, max_members=1)
    with starting_crew(profile, workspace, isolated=False) as crew_for:
        from pipelines.datasets import prepare_source
        from pipelines.plan import prepare_search
        from pipelines.search import run_search

        for name, write in ARCHIVES.items():
            archives, prepared = root / "archives" / name, root / "prepared" / name
            archives.mkdir(parents=True)
            prepare_source(name, write(archives), str(prepared), subset=True)
            changes = ["dataset.source=parquet", f"dataset.path={prepared}", "train.batch_size=4"]
            space = load_space(name, changes, tier="smoke")
            crew = crew_for(space)
            run_search(prepare_search(space, workspace), crew, workspace=workspace)


if __name__ == "__main__":
    main(Path(sys.argv[1]))
