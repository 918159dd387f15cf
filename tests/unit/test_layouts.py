"""How a search's cohorts share a machine."""

from pathlib import Path

from cluster.profile import Profile
from pipelines.layouts import layout_of
from pipelines.plan import Prepared, prepare_search
from pipelines.workspace import Workspace
from search_spaces.loader import load_space
from tests.e2e.tools import draw_images, write_space


def ready(folder: Path, **changes: object) -> Prepared:
    images = draw_images(folder / "images")
    return prepare_search(load_space(str(write_space(folder / "small.yaml", images, **changes))), Workspace(folder))


def test_one_cohort_takes_the_machine_and_several_share_it(tmp_path: Path) -> None:
    profile, one = Profile(name="p"), ready(tmp_path / "one")
    assert (layout_of(one, profile, 4, 0, isolated=False).num_workers, 1) == (4, 1)
    two = layout_of(ready(tmp_path / "two", seeds=[0, 1]), profile, 4, 0, isolated=False)
    assert (two.num_cohorts, two.num_workers) == (2, 2)


def test_isolated_trials_have_a_worker_each_where_there_are_enough(tmp_path: Path) -> None:
    apart = layout_of(ready(tmp_path), Profile(name="p"), 3, 0, isolated=True)
    assert (apart.num_cohorts, apart.num_workers) == (3, 1)
