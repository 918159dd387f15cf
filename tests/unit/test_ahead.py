"""Planning ahead: counts of a data set that is not there, and costs that grow with them."""

from dataclasses import replace

import pytest

from cluster.profile import load_profile
from pipelines.planning.ahead import expected_dataset, look_ahead
from search_spaces.loader import load_space
from search_spaces.space import DatasetSpec
from utuning.data.fgvc.table import READERS
from utuning.errors import ConfigError

PROFILE = load_profile("local")


@pytest.mark.parametrize("name", sorted(READERS))
def test_the_splits_are_those_that_preparing_gives(name: str) -> None:
    expected = READERS[name].expected
    counts = expected_dataset(DatasetSpec(name=name, source=name), "vpt").counts
    assert sum(counts.values()) == sum(expected.counts.values())
    if expected.published:
        assert counts == expected.published


def test_costs_are_counted_without_data_and_follow_the_epochs() -> None:
    space = load_space("flowers102", tier="smoke")
    once = look_ahead(space, PROFILE)
    assert (once.num_trials, once.counts["val"], once.num_classes) == (3, 1020, 102)
    assert once.flops_isolated >= once.flops > 0 and once.peak_bytes > 0 and not once.notes
    twice = look_ahead(load_space("flowers102", ["train.epochs=2"], tier="smoke"), PROFILE)
    assert twice.flops == pytest.approx(2 * once.flops)
    assert once.cached_bytes == 0, "online views are not cached"


def test_what_cannot_be_planned_ahead_is_named() -> None:
    with pytest.raises(ConfigError, match="known data sets, and the source is 'drawn'"):
        look_ahead(load_space("demo"), PROFILE)
    with pytest.raises(ConfigError, match="without a val to select on"):
        expected_dataset(DatasetSpec(name="cub200", source="cub200"), "official")
    space = load_space("flowers102", tier="smoke")
    assert expected_dataset(replace(space.dataset, name="mine"), "official").counts["val"] == 1020
