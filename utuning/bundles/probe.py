"""The probe: what a tuner says of a few tiny images, stored with it, and asked again when it is put on a backbone.

Digests say that the files are those that were saved; the probe says that this backbone, these libraries and this device
make of them what they made then. Its images are small squares of noise, enlarged by repeating pixels: exact anywhere.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import torch
from torch import Generator, Tensor

from utuning.backbone import Backbone
from utuning.bundles.files import AGAIN
from utuning.cohort import Cohort
from utuning.errors import BundleError
from utuning.member import Member

NUM_IMAGES, SIDE = 2, 16
MAX_IMAGES, MAX_SIDE = 16, 64
TOLERANCE = 1e-3
"""Largest difference that is allowed, in units of the largest logit (or of 1, where all are smaller)."""


@dataclass(frozen=True, kw_only=True)
class Probe:
    """uint8 images (P, 3, S, S), and the logits (P, C), float32, of the stored tensors for them."""

    images: Tensor
    logits: Tensor

    @classmethod
    def of(cls, tensors: Mapping[str, Tensor], num_classes: int, name: str) -> "Probe":
        """Take it from a file's tensors; `name` is what messages call the file.

        Raises:
            BundleError: other tensors, or other shapes.
        """
        if tensors.keys() != {"images", "logits"}:
            raise BundleError(f"{name} holds {', '.join(tensors)[:200]}; allowed: images and logits; {AGAIN}")
        images, logits = tensors["images"], tensors["logits"]
        number, side = images.shape[0] if images.ndim else 0, images.shape[-1] if images.ndim else 0
        wanted = (number, 3, side, side), torch.uint8, (number, num_classes), torch.float32
        found = tuple(images.shape), images.dtype, tuple(logits.shape), logits.dtype
        if found != wanted or not 1 <= number <= MAX_IMAGES or not 1 <= side <= MAX_SIDE:
            raise BundleError(
                f"{name} holds images {found[0]} {found[1]} and logits {found[2]} {found[3]}; allowed: up to "
                f"{MAX_IMAGES} square uint8 images of at most {MAX_SIDE} px, and a float32 row of {num_classes} logits "
                f"for each; {AGAIN}"
            )
        return cls(images=images, logits=logits)


def probe_images() -> Tensor:
    """The images that new bundles store."""
    shape = (NUM_IMAGES, 3, SIDE, SIDE)
    return torch.randint(0, 256, shape, generator=Generator().manual_seed(0), dtype=torch.uint8)


def enlarged(images: Tensor, size: int) -> Tensor:
    """Make images of size (size, size): pixel y is pixel y * S // size of the small one."""
    rows, columns = (torch.arange(size) * side // size for side in images.shape[-2:])
    return images[..., rows, :][..., columns]


def probe_logits(backbone: Backbone, members: Sequence[Member], images: Tensor | None = None) -> list[Tensor]:
    """Each member's logits (P, C) in fp32, on the CPU: all members in one pass of the frozen backbone."""
    small = probe_images() if images is None else images
    # TF32 would make a GPU's convolutions differ by more than the tolerance.
    with torch.backends.cudnn.flags(enabled=True, allow_tf32=False):
        cohort = Cohort(backbone, members, precision="fp32")
        return [logits.cpu() for logits in cohort.scores(enlarged(small, backbone.preprocessing.img_size))]


def difference(probe: Probe, backbone: Backbone, member: Member) -> float:
    """The largest difference of a member's logits from the stored ones, in units of the largest stored one."""
    (found,) = probe_logits(backbone, [member], probe.images)
    return float((found - probe.logits).abs().max() / probe.logits.abs().max().clamp(min=1))


def check_probe(probe: Probe, backbone: Backbone, member: Member, name: str) -> float:
    """Check that a member answers as it did when it was saved; gives the difference.

    Raises:
        BundleError: it does not.
    """
    found = difference(probe, backbone, member)
    if not found <= TOLERANCE:
        device = next(backbone.trunk.model.parameters()).device
        raise BundleError(
            f"{name} answers its probe images otherwise than when it was saved: logits differ by {found:.1e} of the "
            f"largest on {device}; allowed: {TOLERANCE:g}; install the versions that its manifest names, or train again"
        )
    return found
