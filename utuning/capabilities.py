"""Does a method work on a backbone? Found by trying, not by a list."""

import torch

from utuning.backbone import Backbone
from utuning.batch import Batch
from utuning.cohort import Cohort
from utuning.configs import TrainConfig, TunerConfig
from utuning.errors import ConfigError, PlacementError
from utuning.member import Member
from utuning.tuners import tuner_row

NUM_CLASSES, NUM_STEPS = 3, 3
CONFIG = TrainConfig(lr=1e-2, epochs=1, batch_size=4, warmup_epochs=0.0)


def obstacle(backbone: Backbone, method: str) -> str | None:
    """Why a method cannot train on a backbone, in its own placement or at every op where it can stand; None if it can.

    It builds a member, takes three steps on noise, and looks whether all that it trains has moved.
    """
    try:
        tuners = (TunerConfig(method=method, ops=_ops(backbone, method)),)
        member = Member(backbone, num_classes=NUM_CLASSES, config=CONFIG, tuners=tuners, steps_per_epoch=NUM_STEPS + 1)
    except (PlacementError, ConfigError) as error:
        return str(error)
    before = {name: value.clone() for name, value in member.tensors().items()}
    cohort = Cohort(backbone, [member])
    losses = torch.stack([cohort.step(_noise(backbone, step)) for step in range(NUM_STEPS)])
    if cohort.failures:
        return cohort.failures[0]
    still = [name for name, value in member.tensors().items() if torch.equal(value, before[name])]
    if not torch.isfinite(losses).all():
        return "its loss is not finite"
    return f"{still[0]} never learns" if still else None


def _ops(backbone: Backbone, method: str) -> tuple[str, ...]:
    """Nothing where the method has a placement of its own, else every op kind that both have."""
    row = tuner_row(method)
    if row.default_ops or not row.ops:
        return ()
    have = {kind for kind, _ in backbone.trunk.where}
    found = tuple(kind for kind in row.ops if kind in have)
    if not found:
        raise PlacementError(f"{method} stands at {', '.join(row.ops)}, and this backbone has none of them")
    return found


def _noise(backbone: Backbone, seed: int) -> Batch:
    generator = torch.Generator().manual_seed(seed)
    size, pixels = CONFIG.batch_size, backbone.preprocessing.img_size
    return Batch(
        images=torch.randint(0, 256, (size, 3, pixels, pixels), generator=generator, dtype=torch.uint8),
        labels=torch.randint(0, NUM_CLASSES, (size,), generator=generator),
        weight=torch.ones(size),
        index=torch.arange(size),
    )
