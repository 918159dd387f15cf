"""Shared by all tests: a tiny real ViT, batches, and mixed members. No ray, no mlflow here."""

import pytest
import timm
import torch

from tests.tools import tiny_backbone
from utuning.architectures import ARCHITECTURES, Trunk
from utuning.architectures.trunk import find_architecture
from utuning.backbone import Backbone
from utuning.configs import BackboneConfig
from utuning.data.transforms import Preprocessing


@pytest.fixture(scope="session", autouse=True)
def one_thread() -> None:
    torch.set_num_threads(1)  # tiny tensors: more threads only wait for each other


@pytest.fixture(scope="session")
def backbone() -> Backbone:
    return tiny_backbone()


@pytest.fixture(scope="session")
def vit_b16() -> Backbone:
    """Real ViT-B/16 shapes without memory: for counting parameters."""
    with torch.device("meta"):
        model = timm.create_model("vit_base_patch16_224", num_classes=0).requires_grad_(False)
    trunk = Trunk(model, find_architecture(model, ARCHITECTURES))
    return Backbone(BackboneConfig(name="vit_base_patch16_224"), trunk, Preprocessing(img_size=224, resize=256), "meta")
