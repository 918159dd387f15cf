"""What a trial's run says of it, and how the tracking store spells that: parameters, tags, metrics."""

import json
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Literal

from pipelines.tracking.data_tags import read_data_tags
from utuning.configs import TrialConfig
from utuning.data.protocols import AS_GIVEN

Status = Literal["FINISHED", "FAILED", "KILLED"]
Outcome = Literal["completed", "stopped", "failed"]
Kind = Literal["trial", "final"]
"""What a run is of: a trial of the search, or one that was trained after it to be measured on test."""


@dataclass(frozen=True, kw_only=True)
class RunRecord:
    """One trial's run as the store holds it; `outcome` is its run status in small letters while it has none.

    `final` marks what was trained after the search, to be measured on test. `val_from` says where val comes from,
    `subset` whether the data are a part of a known set, `data_images` how images are stored, `data_warnings` what was
    remarked on when they were prepared. `weights` is where its backbone's weights came from, as its space said; empty
    where that is not known. `began_as` is the id of the trial that its run began with: one that PBT lets go on as a
    copy of another has that one's configuration by now.
    """

    run_id: str
    search_id: str
    outcome: str
    trial: TrialConfig
    metrics: Mapping[str, float]
    start_time: int
    final: bool = False
    val_from: str = ""
    subset: bool = False
    data_images: str = AS_GIVEN
    data_warnings: tuple[str, ...] = ()
    weights: str = ""
    began_as: str = ""


@dataclass(frozen=True, kw_only=True)
class SearchRecord:
    """One search's parent run."""

    run_id: str
    search_id: str


def run_record(run: Any) -> RunRecord:
    """Read MLflow's run of a trial."""
    tags = run.data.tags
    return RunRecord(
        run_id=run.info.run_id,
        search_id=tags["search_id"],
        outcome=tags.get("outcome", run.info.status.lower()),
        trial=TrialConfig.from_dict(json.loads(tags["trial_config"])),
        metrics=dict(run.data.metrics),
        start_time=run.info.start_time,
        final=tags["kind"] == "final",
        weights=tags.get("backbone_weights", ""),
        began_as=tags["trial_id"],
        **read_data_tags(tags),
    )


def trial_tags(trial: TrialConfig) -> dict[str, str]:
    """Tags that say which trial a run is of; the configuration is among them, whole."""
    return {
        "trial_id": trial.trial_id,
        "config_id": trial.config_id,
        "method": trial.method,
        "dataset": trial.dataset,
        "protocol": trial.protocol,
        "data_fingerprint": trial.data_fingerprint,
        "backbone_fingerprint": trial.backbone_fingerprint,
        "trial_config": json.dumps(trial.as_dict(), sort_keys=True),
    }


def flat(trial: TrialConfig) -> dict[str, str]:
    """Write a configuration under short keys: `train.lr`, `tuners.0.ops` = `attn+mlp`, `tuners.0.bottleneck_dim`."""
    values = trial.as_dict()
    params = {f"train.{key}": value for key, value in values.pop("train").items()}
    for index, tuner in enumerate(values.pop("tuners")):
        settings = tuner.pop("settings")
        tuner["ops"] = "+".join(tuner["ops"])
        params |= {f"tuners.{index}.{key}": value for key, value in {**tuner, **settings}.items()}
    return {key: _text(value) for key, value in {**values, **params}.items()}


def _text(value: Any) -> str:
    return ",".join(map(str, value)) if isinstance(value, tuple | list) else str(value)
