"""docs/costs.md has every tier of every known data set, and says what the planner counts."""

import runpy
from pathlib import Path

import pytest

from cluster.profile import load_profile
from pipelines.planning.ahead import expected_dataset, look_ahead
from search_spaces.loader import load_space
from utuning.data.fgvc.table import READERS

SCRIPT = runpy.run_path(str(Path(__file__).parent.parent.parent / "docs" / "costs.py"))
ROWS = [line for line in SCRIPT["PAGE"].read_text().splitlines(keepends=True) if line.startswith("| ")][1:]


@pytest.mark.parametrize("name", READERS)
def test_every_tier_has_a_row_with_its_images_and_trials(name: str) -> None:
    cells = [[cell.strip() for cell in row.strip("| \n").split("|")] for row in ROWS]
    mine = {row[1]: row for row in cells if row[0] == name}
    assert list(mine) == list(SCRIPT["TIERS"])
    for tier, row in mine.items():
        space = load_space(name, tier=tier)
        counts = expected_dataset(space.dataset, space.protocol).counts
        assert row[2] == f"{counts['train']:,} + {counts['val']:,}"
        assert int(row[3]) >= space.num_trials, "finals come on top"


def test_a_row_is_what_the_planner_counts() -> None:
    """One row of the cheapest kind; `python docs/costs.py` counts all."""
    ahead = look_ahead(load_space("flowers102", tier="smoke"), load_profile("local"))
    assert SCRIPT["line"]("flowers102", "smoke", ahead) in ROWS


def test_the_page_is_the_scripts() -> None:
    assert SCRIPT["PAGE"].read_text().startswith(SCRIPT["ABOUT"])
