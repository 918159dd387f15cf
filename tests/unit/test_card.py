"""Model cards, read back by the library that model hubs use."""

from dataclasses import replace

import pytest
from huggingface_hub import ModelCard

from tests.bundles import NAMES, trial
from tests.tools import adapter
from utuning.backbone import Backbone
from utuning.bundles.card import model_card
from utuning.configs import BackboneConfig, TunerConfig

METRICS = {"val/accuracy": 0.625, "test/accuracy": 0.5, "val/loss": 1.25}


def test_the_hub_reads_the_metadata(backbone: Backbone) -> None:
    config = trial(backbone, adapter("attn"), TunerConfig(method="lora"))
    card = ModelCard(model_card(config, backbone.config, METRICS, NAMES))
    assert card.data.base_model == "vit_tiny_patch16_224"
    assert card.data.library_name == "utuning"
    assert card.data.pipeline_tag == "image-classification"
    assert {"p_adapter", "lora", "timm"} <= set(card.data.tags)
    found = {result.metric_name: result for result in card.data.eval_results or []}
    assert {name: result.metric_value for name, result in found.items()} == {
        "val/accuracy": 0.625,
        "test/accuracy": 0.5,
    }
    assert found["test/accuracy"].dataset_split == "test"
    assert found["val/accuracy"].dataset_revision == config.data_fingerprint


@pytest.mark.parametrize(
    ("name", "base"),
    [
        ("vit_base_patch16_224.orig_in21k", "timm/vit_base_patch16_224.orig_in21k"),
        ("vit_base_patch16_224", "timm/vit_base_patch16_224.augreg2_in21k_ft_in1k"),
    ],
)
def test_timms_own_weights_are_named_as_on_the_hub(backbone: Backbone, name: str, base: str) -> None:
    card = ModelCard(model_card(trial(backbone), BackboneConfig(name=name), {}, NAMES))
    assert card.data.base_model == base
    assert card.data.eval_results is None


def test_names_from_elsewhere_stay_where_they_are_put(backbone: Backbone) -> None:
    evil = "x\n---\n# 'title: \"| `a`"
    config = replace(trial(backbone, adapter("attn")), dataset=evil, protocol=evil)
    text = model_card(config, replace(backbone.config, weights=evil), {**METRICS, evil: 1.0}, NAMES)
    card = ModelCard(text)
    assert (card.data.eval_results or [])[0].dataset_name == evil
    assert [line for line in card.text.splitlines() if line.startswith("#")] == [card.text.strip().splitlines()[0]]
