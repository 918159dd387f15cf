"""How an image becomes a model input: the deterministic part, the random part, the scaling."""

from collections.abc import Callable, Sequence

import numpy as np
import torch
from torch import Tensor
from torchvision.transforms import InterpolationMode
from torchvision.transforms.v2 import functional as ops

from utuning.data.crops import RECIPES, Box, choose_box
from utuning.data.decode import decode_rgb
from utuning.data.preprocessing import Preprocessing

__all__ = [
    "RECIPES",
    "Preprocessing",
    "decode_resize",
    "eval_crop",
    "eval_transform",
    "normalise",
    "sample_rng",
    "train_crop",
    "train_transform",
]


def decode_resize(data: bytes, p: Preprocessing, path: str = "<bytes>") -> Tensor:
    """Decode to RGB and resize the shorter side to `p.resize`: uint8, channels first."""
    pixels = np.array(decode_rgb(data, path))
    image = torch.from_numpy(pixels).permute(2, 0, 1)
    mode = InterpolationMode(p.interpolation)
    resized: Tensor = ops.resize(image, [p.resize], interpolation=mode, antialias=True)
    return resized.contiguous()


def eval_crop(image: Tensor, p: Preprocessing) -> Tensor:
    """Cut the centre square out of a resized image."""
    crop: Tensor = ops.center_crop(image, [p.img_size, p.img_size])
    return crop


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
    crop: Tensor = ops.crop(image, box.top, box.left, box.height, box.width)
    if (box.height, box.width) != (p.img_size, p.img_size):
        size, mode = [p.img_size, p.img_size], InterpolationMode(p.interpolation)
        crop = ops.resize(crop, size, interpolation=mode, antialias=True)
    return crop


def train_transform(p: Preprocessing, recipe: str = "vpt") -> Callable[[bytes, np.random.Generator], Tensor]:
    """Return the function from encoded bytes to the uint8 input for training."""
    return lambda data, rng: train_crop(decode_resize(data, p), p, recipe, rng)


def normalise(images: Tensor, mean: Sequence[float], std: Sequence[float]) -> Tensor:
    """Scale a uint8 batch to float32 with the given channel means and deviations of [0, 1]."""
    shift = torch.tensor(mean, dtype=torch.float32, device=images.device).view(-1, 1, 1)
    scale = torch.tensor(std, dtype=torch.float32, device=images.device).view(-1, 1, 1)
    return (images.to(torch.float32) / 255 - shift) / scale
