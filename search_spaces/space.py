"""A search space: one data set, one backbone, and what to try on it."""

import random
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any, Literal

from search_spaces.domains import Domain, Pick, Picks, draw, find_domains, replay, variants
from utuning.configs import BackboneConfig, CacheDtype, Precision, Recipe, TrainConfig, TrialConfig, TunerConfig, Views
from utuning.data.protocols import FINAL_SEEDS, VAL_FRACTION, ProtocolName, find_protocol
from utuning.tuners import tuner_row

Known = Literal["cub200", "nabirds", "flowers102", "stanford_dogs", "stanford_cars", "cifar100"]
Source = Literal["drawn", "folder", "lists", "parquet", Known]
TUNER_KEYS = ("method", "ops", "depths")


@dataclass(frozen=True, kw_only=True)
class DatasetSpec:
    """Where the images come from.

    `drawn` is the embedded data set; `folder` a folder of class folders; `lists` list files of relative paths and
    class ids below `path`; `parquet` a folder that `utuning prepare` wrote, or Parquet files of others; the name of a
    known data set its archives, at `path` as `utuning prepare` takes them, of which `subset` accepts a part. With
    `shorter_side`, larger images are stored with a shorter side of so many pixels.
    """

    name: str
    source: Source
    path: str | None = None
    lists: Mapping[str, str] | None = None
    classes: str | None = None
    seed: int = 0
    val_fraction: float = VAL_FRACTION
    test_fraction: float | None = None
    skip_corrupt: bool = False
    subset: bool = False
    shorter_side: int | None = None


@dataclass(frozen=True, kw_only=True)
class Budget:
    """How much is tried, and how trials are suggested and stopped. `num_trials` does not count the baselines."""

    num_trials: int
    searcher: Literal["random", "optuna"] = "random"
    scheduler: Literal["none", "asha", "median", "pbt"] = "none"
    grace_epochs: int = 1
    reduction_factor: int = 2
    seed: int = 0


@dataclass(frozen=True, kw_only=True)
class Baseline:
    """A fixed trial to compare with; `train` overrides the space's training values."""

    tuners: tuple[Mapping[str, Any], ...] = ()
    train: Mapping[str, Any] = field(default_factory=dict)


@dataclass(frozen=True, kw_only=True)
class Finals:
    """What is measured on test after the search: the chosen configuration with so many seeds, and the baselines.

    Without `seeds` they are the space's own; 0, 1 and 2 under a protocol that trains again. A seed of which the search
    has a run, trained on the same images, is not trained twice.
    """

    seeds: tuple[int, ...] = ()
    baselines: bool = True


@dataclass(frozen=True, kw_only=True)
class Facts:
    """What is known only once data and backbone are there."""

    data_fingerprint: str
    num_classes: int
    backbone_fingerprint: str


@dataclass(frozen=True, kw_only=True)
class SearchSpace:
    """A checked space. `template` draws to `train` and `tuners`, or to `families` with both; it holds the domains."""

    name: str
    hypothesis: str
    dataset: DatasetSpec
    backbone: BackboneConfig
    template: Any
    budget: Budget
    baselines: tuple[Baseline, ...] = ()
    seeds: tuple[int, ...] = (0,)
    metric: Literal["val/accuracy", "val/loss"] = "val/accuracy"
    protocol: ProtocolName = "vpt"
    finals: Finals = Finals()
    recipe: Recipe = "vpt"
    precision: Precision = "auto"
    views: Views = "online"
    cache_dtype: CacheDtype = "fp32"

    @property
    def domains(self) -> dict[str, Domain]:
        """Everything that is searched, by dotted path."""
        return find_domains(self.template)

    @property
    def num_trials(self) -> int:
        """How many trials a search has at most."""
        return (len(self.baselines) + self.budget.num_trials) * len(self.seeds)

    @property
    def final_seeds(self) -> tuple[int, ...]:
        """The seeds that test is measured with."""
        return self.finals.seeds or (FINAL_SEEDS if find_protocol(self.protocol).trains_again else self.seeds)

    def as_finals(self, trials: Sequence[TrialConfig]) -> list[TrialConfig]:
        """These trials as test is measured of them: trained on the protocol's splits, once for each final seed."""
        splits = tuple(find_protocol(self.protocol).final_splits)
        return [
            replace(trial, train_splits=splits, train=replace(trial.train, seed=seed))
            for seed in self.final_seeds
            for trial in trials
        ]

    @property
    def maximise(self) -> bool:
        """Whether a larger metric is better."""
        return self.metric == "val/accuracy"

    @property
    def model_name(self) -> str:
        """The registered model of this space's data set."""
        return f"utuning-{self.dataset.name}"

    def trial(self, drawn: Mapping[str, Any], seed: int, facts: Facts) -> TrialConfig:
        """Make the trial of one drawn template."""
        values = drawn.get("families", drawn)
        return self._trial(values["tuners"], values["train"], seed, facts)

    def baseline_trials(self, facts: Facts) -> list[TrialConfig]:
        """The fixed trials, one for each seed."""
        first = variants(self.template)[0]
        train = first.get("families", first)["train"]
        return [
            self._trial(list(baseline.tuners), {**train, **baseline.train}, seed, facts)
            for baseline in self.baselines
            for seed in self.seeds
        ]

    def random_trials(self, facts: Facts, first: Sequence[Picks] = ()) -> list[TrialConfig]:
        """As many different random configurations as the budget says (or exist), one trial for each seed.

        What is picked `first` counts, and takes the place of random ones.
        """
        rng = random.Random(self.budget.seed)
        drawn: list[Pick] = [lambda where, domain: domain.sample(rng)] * (self.budget.num_trials * 50)
        chosen: dict[str, list[TrialConfig]] = {}
        for pick in (*map(replay, first), *drawn):
            if len(chosen) == self.budget.num_trials:
                break
            trials = self.seeded(pick, facts)
            chosen.setdefault(trials[0].config_id, trials)
        return [trial for trials in chosen.values() for trial in trials]

    def seeded(self, pick: Pick, facts: Facts) -> list[TrialConfig]:
        """One configuration, drawn by `pick`, once for each seed."""
        drawn = draw(self.template, pick)
        return [self.trial(drawn, seed, facts) for seed in self.seeds]

    def probing_trials(self, facts: Facts) -> list[TrialConfig]:
        """Trials of the first seed that between them take every listed value and every end of an interval."""
        return [self.trial(drawn, self.seeds[0], facts) for drawn in variants(self.template)]

    def _trial(self, tuners: list[Any], train: Mapping[str, Any], seed: int, facts: Facts) -> TrialConfig:
        return TrialConfig(
            dataset=self.dataset.name,
            data_fingerprint=facts.data_fingerprint,
            num_classes=facts.num_classes,
            backbone=self.backbone.name,
            backbone_fingerprint=facts.backbone_fingerprint,
            protocol=self.protocol,
            recipe=self.recipe,
            precision=self.precision,
            views=self.views,
            cache_dtype=self.cache_dtype,
            train=TrainConfig(**{**train, "seed": seed}),
            tuners=tuple(tuner_config(tuner) for tuner in tuners),
        )


def tuner_config(values: Mapping[str, Any]) -> TunerConfig:
    """Read a tuner as a space writes it: placement and settings side by side."""
    row = tuner_row(values["method"])
    depths = values.get("depths", None if row.role in ("weights", "head") else row.default_depths)
    return TunerConfig(
        method=values["method"],
        ops=tuple(values.get("ops", ())),
        depths=depths if depths is None or isinstance(depths, str) else tuple(depths),
        settings={key: value for key, value in values.items() if key not in TUNER_KEYS},
    )
