"""One tuner on its backbone as a plain module, from uint8 images to logits.

Shape legend: B images, S their size, C classes.
"""

from collections.abc import Callable
from typing import cast

from torch import Tensor, nn

from utuning.backbone import Backbone
from utuning.errors import ConfigError
from utuning.exporting.pixels import Pixels
from utuning.member import Member
from utuning.merging import merged_model
from utuning.streams import run_streams


class Classifier(nn.Module):
    """uint8 images (B, 3, S, S) -> logits (B, C).

    Args:
        pixels: scales images to what the network reads.
        network: from scaled images to logits.
    """

    def __init__(self, pixels: Pixels, network: nn.Module) -> None:
        super().__init__()
        self.pixels, self.network = pixels, network

    def forward(self, images: Tensor) -> Tensor:
        """Logits of images that are resized and cropped already."""
        return cast(Tensor, self.network(self.pixels(images)))


class Engine(nn.Module):
    """The engine's own forward pass for one member: whatever a method does, it is what runs here."""

    def __init__(self, backbone: Backbone, member: Member) -> None:
        super().__init__()
        # The sites are closures over these modules: registered here, their weights are the graph's parameters.
        self.parts = member.parts
        self.backbone = backbone.trunk.model
        self.own = None if member.own_trunk is None else member.own_trunk.model
        self._logits: Callable[[Tensor], Tensor] = lambda x: member.logits(run_streams(backbone.trunk, [member], x)[0])

    def forward(self, x_B3SS: Tensor) -> Tensor:
        """Logits of scaled images."""
        return self._logits(x_B3SS)


def single_model(backbone: Backbone, member: Member) -> tuple[Classifier, bool]:
    """A member as a module, and whether its tuners are merged into plain weights: they are where they can be."""
    member.parts.eval()
    try:
        network, merged = merged_model(backbone, member), True
    except ConfigError:
        network, merged = Engine(backbone, member), False
    return Classifier(Pixels(backbone.preprocessing), network).requires_grad_(False).eval(), merged
