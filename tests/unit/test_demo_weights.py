import hashlib
import json
from pathlib import Path
from typing import Any

import pytest
import timm
import torch
from safetensors.torch import load_file

import utuning.demo
from utuning.demo.dataset import CLASSES
from utuning.demo.pretrain import MODEL_NAME, MODEL_SETTINGS, Settings, augmented, normalised, rate

FOLDER = Path(utuning.demo.__file__).parent
WEIGHTS = FOLDER / "vit.safetensors"


@pytest.fixture(scope="module")
def record() -> dict[str, Any]:
    found: dict[str, Any] = json.loads((FOLDER / "pretrain.json").read_text())
    return found


def test_the_weights_are_those_of_the_record(record: dict[str, Any]) -> None:
    assert hashlib.sha256(WEIGHTS.read_bytes()).hexdigest() == record["sha256"]
    assert record["model"] == {"name": MODEL_NAME, **MODEL_SETTINGS}


def test_the_weights_are_small_and_half_precision() -> None:
    assert WEIGHTS.stat().st_size <= 3_000_000
    assert {value.dtype for value in load_file(WEIGHTS).values()} == {torch.float16}


def test_the_weights_fit_the_model_exactly() -> None:
    model = timm.create_model(MODEL_NAME, pretrained=False, num_classes=0, **MODEL_SETTINGS)
    model.load_state_dict(load_file(WEIGHTS), strict=True)
    features = model.eval()(torch.zeros(2, 3, 64, 64))
    assert features.shape == (2, MODEL_SETTINGS["embed_dim"])
    assert torch.isfinite(features).all()


def test_the_log_has_a_line_for_each_epoch(record: dict[str, Any]) -> None:
    lines = [json.loads(line) for line in (FOLDER / "pretrain_log.jsonl").read_text().splitlines()]
    assert [line["epoch"] for line in lines] == list(range(1, record["settings"]["epochs"] + 1))
    assert lines[-1]["val_accuracy"] == record["val_accuracy"]
    assert record["val_accuracy"] > 10 / record["settings"]["classes"]


def test_pretraining_saw_more_classes_than_the_demo_has(record: dict[str, Any]) -> None:
    assert record["settings"]["classes"] >= 4 * CLASSES


def test_normalised_pictures_lie_in_minus_one_to_one() -> None:
    ends = normalised(torch.tensor([0, 255], dtype=torch.uint8))
    assert ends.tolist() == [-1.0, 1.0]


def test_augmented_pictures_keep_their_shape_and_values() -> None:
    images = torch.arange(2 * 3 * 8 * 8, dtype=torch.uint8).reshape(2, 3, 8, 8)
    moved = augmented(images, 2, torch.Generator().manual_seed(0))
    assert (moved.shape, moved.dtype) == (images.shape, torch.uint8)
    assert set(moved.flatten().tolist()) <= set(images.flatten().tolist())


def test_the_rate_rises_then_falls_to_nearly_nothing() -> None:
    settings = Settings(lr=1.0, warmup=0.1)
    rates = [rate(settings, step, 100) for step in range(100)]
    assert rates.index(max(rates)) in (9, 10)
    assert rates[0] == pytest.approx(0.1)
    assert rates[-1] < 0.01
