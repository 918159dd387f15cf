"""How a search's cohorts share a machine."""

from pathlib import Path

from cluster.profile import Profile
from pipelines.planning.layouts import layout_of
from search_spaces.loader import load_space
from search_spaces.space import SearchSpace
from tests.e2e.tools import write_space


def space(folder: Path, **changes: object) -> SearchSpace:
    return load_space(str(write_space(folder / "small.yaml", folder / "images", **changes)))


def test_one_cohort_takes_the_machine_and_several_share_it(tmp_path: Path) -> None:
    profile = Profile(name="p")
    one = layout_of(space(tmp_path), profile, 4, 0, isolated=False)
    assert (one.num_workers, one.num_cohorts) == (4, 1)
    two = layout_of(space(tmp_path, seeds=[0, 1]), profile, 4, 0, isolated=False)
    assert (two.num_cohorts, two.num_workers) == (2, 2)


def test_isolated_trials_have_a_worker_each_where_there_are_enough(tmp_path: Path) -> None:
    apart = layout_of(space(tmp_path), Profile(name="p"), 3, 0, isolated=True)
    assert (apart.num_cohorts, apart.num_workers) == (3, 1)
