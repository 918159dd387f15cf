"""What a search of a known data set will cost, before its archives or the backbone's weights are there.

Its images are counted as its owners publish them, the backbone has random weights: FLOPs and bytes are counted as
`forecast` counts them. No seconds: nothing of the machine that will train is measured.
"""

import math
from dataclasses import dataclass, replace

from cluster.profile import Layout, Profile
from pipelines.planning.forecast import count_trials, plan_waves
from pipelines.planning.memory import HELD_BY_ALLOCATOR, need_bytes
from pipelines.planning.plan import Prepared
from pipelines.planning.waves import make_waves
from search_spaces.space import DatasetSpec, Facts, SearchSpace
from utuning.backbone import Backbone
from utuning.data.fgvc.table import READERS
from utuning.data.info import DatasetInfo
from utuning.data.places import Place
from utuning.data.protocols import find_protocol
from utuning.errors import ConfigError, nearest

ALONE = Layout(num_cohorts=1, num_workers=1, cpus_per_worker=1, gpus_per_worker=1)
"""Bytes are those of one worker that has the whole batch."""


@dataclass(frozen=True, kw_only=True)
class Ahead:
    """A search's counted cost: every trial runs to its end, from an empty cache.

    Attributes:
        counts: images by split.
        num_classes: of the data set.
        num_trials: trained ones.
        flops: of all training and evaluation, as many members together as the profile allows.
        flops_isolated: the same with each trial alone.
        cached_bytes: of the frozen states that the search would keep on disk.
        peak_bytes: of the backbone and the largest trial alone, on a worker that has the whole batch.
        notes: trials that cannot train.
    """

    counts: dict[str, int]
    num_classes: int
    num_trials: int
    flops: float
    flops_isolated: float
    cached_bytes: int
    peak_bytes: float
    notes: tuple[str, ...]


def look_ahead(space: SearchSpace, profile: Profile) -> Ahead:
    """Count what a search will cost; takes some seconds for each kind of trial.

    Raises:
        ConfigError: the data set is none of the known ones, or no trial can train.
    """
    dataset = expected_dataset(space.dataset, space.protocol)
    backbone = Backbone.from_config(replace(space.backbone, weights="none"))
    facts = Facts(
        data_fingerprint=dataset.fingerprint,
        num_classes=len(dataset.class_names),
        backbone_fingerprint=backbone.fingerprint,
    )
    trials, counted, notes = count_trials(Prepared(space=space, dataset=dataset, backbone=backbone, facts=facts))
    together, alone = (
        plan_waves(counted, ALONE, waves, math.inf)
        for waves in (make_waves(trials, profile.max_members), make_waves(trials, 1, isolated=True))
    )
    weights = sum(each.numel() * each.element_size() for each in backbone.trunk.model.parameters())
    return Ahead(
        counts=dict(dataset.counts),
        num_classes=len(dataset.class_names),
        num_trials=len(trials),
        flops=sum(counted.flops(together.all_epochs).values()),
        flops_isolated=sum(counted.flops(alone.all_epochs).values()),
        cached_bytes=counted.cached_bytes(together.waves),
        peak_bytes=HELD_BY_ALLOCATOR * weights + max(need_bytes(counted.cost(trial), trial, ALONE) for trial in trials),
        notes=tuple(notes),
    )


def expected_dataset(spec: DatasetSpec, protocol: str) -> DatasetInfo:
    """Describe a known data set as preparing it would: its classes have numbers for names.

    Raises:
        ConfigError: it is none of the known ones.
    """
    if spec.source not in READERS:
        raise ConfigError(
            f"--ahead counts the images of known data sets, and the source is {spec.source!r}; "
            f"{nearest(spec.source, READERS)}; leave it out for a data set of your own"
        )
    expected = READERS[spec.source].expected
    counts = dict(expected.counts)
    if "val" not in counts and find_protocol(protocol).holds_out:
        val = math.ceil(spec.val_fraction * counts["train"])
        counts = {"train": counts["train"] - val, "val": val, "test": counts["test"]}
    if "val" not in counts:
        raise ConfigError(f"protocol {protocol!r} leaves {spec.source} without a val to select on; use protocol: vpt")
    names = tuple(str(number) for number in range(expected.num_classes))
    return DatasetInfo(path=Place(""), name=spec.name, class_names=names, counts=counts, fingerprint="ahead")
