"""A leaderboard's row as a search space of its own: one configuration, its seeds, nothing searched."""

from collections.abc import Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

import yaml

from pipelines.tracking.records import RunRecord
from utuning.configs import BackboneConfig, TunerConfig


def space_of(name: str, runs: Sequence[RunRecord], backbone: BackboneConfig, data: Path) -> dict[str, Any]:
    """Write the runs of one configuration of a space as plain values that `search_spaces.loader` reads.

    Args:
        name: the space's.
        runs: one for each seed.
        backbone: with weights that lie here.
        data: the prepared data set.
    """
    trial = runs[0].trial
    values = {
        "name": f"{name}-{trial.config_id}",
        "hypothesis": f"{trial.label} gives the same again",
        "dataset": {"name": trial.dataset, "source": "parquet", "path": str(data.absolute())},
        "backbone": {key: value for key, value in asdict(backbone).items() if value is not None},
        "train": {key: value for key, value in asdict(trial.train).items() if key != "seed"},
        "tuners": [_tuner(tuner) for tuner in trial.tuners],
        "budget": {"num_trials": 1},
        "seeds": _seeds([run for run in runs if not run.final] or runs),
        "finals": {"seeds": _seeds([run for run in runs if "test/accuracy" in run.metrics])},
        "protocol": trial.protocol,
        "recipe": trial.recipe,
        "precision": trial.precision,
        "views": trial.views,
        "cache_dtype": trial.cache_dtype,
    }
    plain: dict[str, Any] = _plain(values)
    return plain


def write_space(values: Mapping[str, Any], folder: Path) -> Path:
    """Write a space under its name into a folder; gives the file."""
    folder.mkdir(parents=True, exist_ok=True)
    file = folder / f"{values['name']}.yaml"
    file.write_text(yaml.safe_dump(dict(values), sort_keys=False, allow_unicode=True), encoding="utf-8")
    return file


def _seeds(runs: Sequence[RunRecord]) -> list[int]:
    return sorted({run.trial.train.seed for run in runs})


def _tuner(tuner: TunerConfig) -> dict[str, Any]:
    place = {} if tuner.depths is None else {"depths": tuner.depths}
    return {"method": tuner.method, "ops": tuner.ops, **place, **tuner.settings}


def _plain(value: Any) -> Any:
    """Lists for tuples, as YAML has no other."""
    if isinstance(value, Mapping):
        return {key: _plain(each) for key, each in value.items()}
    return [_plain(each) for each in value] if isinstance(value, list | tuple) else value
