"""How an image becomes a model input: the deterministic part, the random part, the scaling.

Until they are scaled, images are uint8 of shape (3, H, W) whose channels lie side by side in memory, as decoders give
them: each step then runs at its fastest, and nothing is copied only to be in another order.
"""

from collections.abc import Callable, Sequence
from contextlib import suppress

import numpy as np
import torch
from torch import Tensor
from torchvision.io import ImageReadMode, decode_jpeg
from torchvision.transforms import InterpolationMode
from torchvision.transforms.v2 import functional as ops

from utuning.data.crops import RECIPES, Box, choose_box
from utuning.data.decode import decode_rgb, is_plain_jpeg
from utuning.data.preprocessing import Preprocessing

__all__ = [
    "RECIPES",
    "Preprocessing",
    "decode_pixels",
    "decode_resize",
    "eval_crop",
    "eval_transform",
    "normalise",
    "resized",
    "sample_rng",
    "train_crop",
    "train_transform",
]


def decode_pixels(data: bytes, path: str = "<bytes>") -> Tensor:
    """Decode to RGB, as `decode_rgb` does."""
    if is_plain_jpeg(data):
        # What this decoder refuses is for the other to refuse, in words, or to forgive.
        with suppress(RuntimeError):
            decoded: Tensor = decode_jpeg(torch.frombuffer(bytearray(data), dtype=torch.uint8), ImageReadMode.RGB)
            return decoded
    return torch.from_numpy(np.array(decode_rgb(data, path))).permute(2, 0, 1)


def decode_resize(data: bytes, p: Preprocessing, path: str = "<bytes>") -> Tensor:
    """Decode to RGB and resize the shorter side to `p.resize`."""
    return resized(decode_pixels(data, path), p)


def resized(image: Tensor, p: Preprocessing) -> Tensor:
    """Resize the shorter side to `p.resize`."""
    return image if min(image.shape[-2:]) == p.resize else _resize(image, [p.resize], p)


def eval_crop(image: Tensor, p: Preprocessing) -> Tensor:
    """Cut the centre square out of a resized image."""
    # Rounded as torchvision's CenterCrop does.
    top, left = (round((side - p.img_size) / 2) for side in image.shape[-2:])
    return image[:, top : top + p.img_size, left : left + p.img_size]


def eval_transform(p: Preprocessing) -> Callable[[bytes], Tensor]:
    """Return the function from encoded bytes to the uint8 input for evaluation."""
    return lambda data: eval_crop(decode_resize(data, p), p)


def sample_rng(seed: int, epoch: int, index: int) -> np.random.Generator:
    """Return the random source of one sample in one epoch, whoever loads it."""
    return np.random.default_rng([seed, epoch, index, 1])


def train_crop(image: Tensor, p: Preprocessing, recipe: str, rng: np.random.Generator) -> Tensor:
    """Apply the random part of a recipe to a resized image."""
    if recipe == "none":
        return eval_crop(image, p)
    box = choose_box(recipe, image.shape[-2], image.shape[-1], p.img_size, rng)
    crop = _cut(image, box, p)
    return crop.flip(-1) if box.flip else crop


def _cut(image: Tensor, box: Box, p: Preprocessing) -> Tensor:
    crop = image[:, box.top : box.top + box.height, box.left : box.left + box.width]
    if (box.height, box.width) != (p.img_size, p.img_size):
        crop = _resize(crop, [p.img_size, p.img_size], p)
    return crop


def _resize(image: Tensor, size: list[int], p: Preprocessing) -> Tensor:
    # Only a batch can say that its channels lie side by side.
    batch = image[None].contiguous(memory_format=torch.channels_last)
    found: Tensor = ops.resize(batch, size, interpolation=InterpolationMode(p.interpolation), antialias=True)
    return found[0]


def train_transform(p: Preprocessing, recipe: str = "vpt") -> Callable[[bytes, np.random.Generator], Tensor]:
    """Return the function from encoded bytes to the uint8 input for training."""
    return lambda data, rng: train_crop(decode_resize(data, p), p, recipe, rng)


def normalise(images: Tensor, mean: Sequence[float], std: Sequence[float]) -> Tensor:
    """Scale a uint8 batch to float32 with the given channel means and deviations of [0, 1], each channel a plane."""
    shift = torch.tensor(mean, dtype=torch.float32, device=images.device).view(-1, 1, 1)
    scale = torch.tensor(std, dtype=torch.float32, device=images.device).view(-1, 1, 1)
    scaled = torch.empty(images.shape, dtype=torch.float32, device=images.device)
    # In place, and on a CPU image by image: one stays in its cache meanwhile, and a batch would not.
    parts = zip(scaled, images, strict=True) if images.device.type == "cpu" else [(scaled, images)]
    for part, pixels in parts:
        part.copy_(pixels).div_(255).sub_(shift).div_(scale)
    return scaled
