"""Shared by all tests: a tiny real ViT, batches, and mixed members. No ray, no mlflow here."""

from typing import Any

import pytest
import timm
import torch
from hypothesis import HealthCheck, settings

from tests.tools import tiny_backbone
from utuning.architectures import ARCHITECTURES, Trunk
from utuning.architectures.trunk import find_architecture
from utuning.backbone import Backbone
from utuning.configs import BackboneConfig
from utuning.data.transforms import Preprocessing

# How long an example takes says how busy the machine is, and nothing of the code.
settings.register_profile("tests", deadline=None, suppress_health_check=[HealthCheck.too_slow])
settings.load_profile("tests")


ONE_CORE = "tests/e2e/test_spaces.py"


@pytest.hookimpl(optionalhook=True)
def pytest_xdist_make_scheduler(config: pytest.Config, log: Any) -> Any:
    """With `-n 2`: files stay whole, and those that search with all of the machine's cores run one after another."""
    from xdist.scheduler import LoadFileScheduling

    class OneSearchAtATime(LoadFileScheduling):  # type: ignore[misc]
        def _split_scope(self, nodeid: str) -> str:
            file = str(super()._split_scope(nodeid))
            return "e2e" if file.startswith("tests/e2e/") and file != ONE_CORE else file

    config.option.loadscopereorder = False  # searches come first, as they are found: they take longest
    return OneSearchAtATime(config, log)


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
