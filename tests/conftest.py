"""Shared by all tests: a tiny real ViT, batches, and mixed members. No ray, no mlflow here."""

import pytest
import torch

from tests.tools import tiny_backbone
from utuning.backbone import Backbone


@pytest.fixture(scope="session", autouse=True)
def one_thread() -> None:
    torch.set_num_threads(1)  # tiny tensors: more threads only wait for each other


@pytest.fixture(scope="session")
def backbone() -> Backbone:
    return tiny_backbone()
