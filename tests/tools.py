"""Builders that tests share."""

import torch

from utuning.backbone import Backbone
from utuning.batch import Batch
from utuning.configs import TrainConfig, TrialConfig, TunerConfig

TINY = {"patch_size": 8, "embed_dim": 32, "depth": 4, "num_heads": 4}


def tiny_backbone(seed: int = 0) -> Backbone:
    """A real timm ViT of four blocks for 32-px images, with random weights that differ by seed."""
    backbone = Backbone.load("vit_tiny_patch16_224", weights="none", img_size=32, options=TINY)
    generator = torch.Generator().manual_seed(seed)
    state = backbone.trunk.model.state_dict()
    noisy = {name: value + 0.02 * torch.randn(value.shape, generator=generator) for name, value in state.items()}
    return Backbone.from_config(backbone.config, noisy)


def batch(size: int = 6, num_classes: int = 5, seed: int = 0, padding: int = 0) -> Batch:
    """A batch of noise images whose last rows are padding."""
    generator = torch.Generator().manual_seed(seed)
    weight = torch.ones(size)
    weight[size - padding :] = 0
    return Batch(
        images=torch.randint(0, 256, (size, 3, 32, 32), generator=generator, dtype=torch.uint8),
        labels=torch.randint(0, num_classes, (size,), generator=generator),
        weight=weight,
        index=torch.arange(size),
    )


def rows_of(whole: Batch, rows: slice) -> Batch:
    """Some rows of a batch: a worker's share."""
    return Batch(**{name: getattr(whole, name)[rows] for name in ("images", "labels", "weight", "index")})


def adapter(*ops: str, depths: str | tuple[int, ...] = "all", **settings: object) -> TunerConfig:
    """A P-Adapter's configuration."""
    return TunerConfig(method="p_adapter", ops=ops, depths=depths, settings=settings)


def train(**values: object) -> TrainConfig:
    """Training settings that move a tiny model visibly."""
    return TrainConfig(**{"lr": 1e-2, "epochs": 2, "batch_size": 6, "warmup_epochs": 0.5, **values})  # type: ignore[arg-type]


def trial_of(*tuners: TunerConfig, **values: object) -> TrialConfig:
    """A trial's configuration, on data and a backbone that do not exist unless they are given."""
    made_up: dict[str, object] = {
        "dataset": "beetles",
        "data_fingerprint": "d1",
        "backbone": "vit",
        "backbone_fingerprint": "b1",
        "num_classes": 20,
        "protocol": "v1",
        "train": train(),
    }
    return TrialConfig(tuners=tuners, **{**made_up, **values})  # type: ignore[arg-type]
