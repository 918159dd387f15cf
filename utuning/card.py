"""The model card of a bundle, with the metadata that model hubs read."""

from collections.abc import Mapping, Sequence

from utuning.configs import BackboneConfig, TrialConfig


def model_card(
    trial: TrialConfig, backbone: BackboneConfig, metrics: Mapping[str, float], class_names: Sequence[str]
) -> str:
    """Write the card: front matter, what it is, how it was measured, how to use it."""
    measured = "\n".join(f"| {name} | {value:.4g} |" for name, value in sorted(metrics.items()))
    return f"""---
base_model: {backbone.name}
base_model_relation: adapter
library_name: utuning
pipeline_tag: image-classification
tags: [parameter-efficient-tuning, {trial.method}]
---
# {trial.label} on {trial.dataset}

A {trial.method} tuner and a head of {len(class_names)} classes for the frozen backbone `{backbone.name}` (fingerprint
`{trial.backbone_fingerprint}`). No backbone weights are in here unless the method trained them.

Protocol: {trial.protocol}; seed {trial.train.seed}; data fingerprint `{trial.data_fingerprint}`;
trial `{trial.trial_id}`.

| metric | value |
|---|---|
{measured}

Use it: `utuning predict FOLDER IMAGE…`
"""
