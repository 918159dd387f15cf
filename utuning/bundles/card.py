"""The model card of a bundle, with the metadata that model hubs read."""

import math
from collections.abc import Mapping, Sequence
from typing import Any

import timm
import yaml

from utuning.bundles.words import placement_in_words
from utuning.configs import BackboneConfig, TrialConfig

TASK = "image-classification"
ACCURACY = "accuracy"
DUMPER = getattr(yaml, "CSafeDumper", yaml.SafeDumper)
"""A card is written in every epoch of every member: in C where libyaml is there."""


def model_card(
    trial: TrialConfig, backbone: BackboneConfig, metrics: Mapping[str, float], class_names: Sequence[str]
) -> str:
    """Write the card: front matter for the Hugging Face Hub, what it is, how it was measured, how to use it."""
    front = yaml.dump(_metadata(trial, backbone, metrics), Dumper=DUMPER, sort_keys=False, allow_unicode=True)
    measured = "\n".join(f"| {_cell(name)} | {value:.4g} |" for name, value in sorted(metrics.items()))
    placed = "\n".join(f"- {_cell(line)}" for line in placement_in_words(trial.tuners))
    return f"""---
{front}---
# {_cell(trial.label)} on {_cell(trial.dataset)}

A tuner and a head of {len(class_names)} classes for the frozen backbone `{_cell(backbone.name)}` (weights
`{_cell(backbone.weights)}`, fingerprint `{trial.backbone_fingerprint}`).
No backbone weights are in here unless the method trained them.

{placed}

Protocol: {_cell(trial.protocol)}, trained on {_cell(" and ".join(trial.train_splits))}; seed {trial.train.seed};
data fingerprint `{_cell(trial.data_fingerprint)}`; trial `{trial.trial_id}`.

| metric | value |
|---|---|
{measured}

Use it: `utuning verify FOLDER`, then `utuning predict FOLDER IMAGE…`
"""


def base_model(backbone: BackboneConfig) -> str:
    """The backbone as the Hub names it, where timm's own weights are meant; else the name of its architecture."""
    found = timm.get_pretrained_cfg(backbone.name) if backbone.weights == "timm" else None
    return str(found.hf_hub_id) if found and found.hf_hub_id else backbone.name


def _metadata(trial: TrialConfig, backbone: BackboneConfig, metrics: Mapping[str, float]) -> dict[str, Any]:
    methods = [tuner.method for tuner in trial.tuners] or [trial.method]
    results = [
        _result(trial, name, value)
        for name, value in sorted(metrics.items())
        if name.rpartition("/")[2] == ACCURACY and math.isfinite(value)
    ]
    return {
        "base_model": base_model(backbone),
        "base_model_relation": "adapter",
        "library_name": "utuning",
        "pipeline_tag": TASK,
        "tags": list(dict.fromkeys([TASK, "timm", "parameter-efficient-tuning", *methods])),
        **({"model-index": [{"name": trial.label, "results": results}]} if results else {}),
    }


def _result(trial: TrialConfig, name: str, value: float) -> dict[str, Any]:
    split = name.rpartition("/")[0]
    data = {"name": trial.dataset, "type": trial.dataset, "split": split, "revision": trial.data_fingerprint}
    return {
        "task": {"type": TASK},
        "dataset": data,
        "metrics": [{"type": ACCURACY, "value": float(value), "name": name}],
    }


def _cell(text: str) -> str:
    """Text that stays within its line, its table cell and its code mark, whatever it holds."""
    return " ".join(text.split()).replace("|", "\\|").replace("`", "'")
