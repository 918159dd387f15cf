"""Full fine-tuning: a member trains a copy of every parameter of the backbone."""

from utuning.architectures import Trunk


def every_parameter(trunk: Trunk) -> frozenset[str]:
    """All parameters of the model."""
    return frozenset(name for name, _ in trunk.model.named_parameters())
