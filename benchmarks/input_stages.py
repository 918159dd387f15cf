"""Where the time of decoding and augmenting goes: milliseconds an image by stage, beside torchvision's way."""

import io
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from statistics import median
from typing import Any

import torch
from PIL import Image
from torchvision import transforms as v1
from torchvision.transforms import functional as v1_ops

from utuning.data.transforms import Preprocessing, decode_pixels, normalise, resized, sample_rng, train_crop

STAGES = ("decode", "resize", "crop and flip", "into batches", "scale")
PAGE = """
## By stage

Milliseconds an image for the case `vpt`, each stage by itself over all images, median of {rounds} rounds. *All* is what
an image costs in the loader, from the table above; what is more than the sum is the loader's own. *Crop and flip* of
ours draws the crop's own random numbers; *into batches* is a copy for ours, `ToTensor` and `stack` for ImageFolder.

| photos | px | whose | {stages} | sum | all |
|---|---:|---|{rule}---:|---:|
"""

Work = Callable[[Any, int], Any]


@dataclass(frozen=True)
class Stages:
    """One line of the table, in milliseconds an image."""

    photos: str
    size: int
    whose: str
    each: dict[str, float]
    all: float

    def line(self) -> str:
        """As Markdown."""
        each = " | ".join(f"{self.each[stage]:.2f}" for stage in STAGES)
        return (
            f"| {self.photos} | {self.size} | {self.whose} | {each} | {sum(self.each.values()):.2f} | {self.all:.2f} |"
        )


def page(found: Sequence[Stages], rounds: int) -> str:
    """The table as Markdown."""
    head = PAGE.format(rounds=rounds, stages=" | ".join(STAGES), rule="---:|" * len(STAGES))
    return head + "".join(f"{each.line()}\n" for each in found)


def our_stages(images: Sequence[bytes], p: Preprocessing, batch_size: int, rounds: int) -> dict[str, float]:
    """This package's stages."""
    size = p.img_size
    batch = torch.empty((batch_size, size, size, 3), dtype=torch.uint8).permute(0, 3, 1, 2)

    def into_batch(image: torch.Tensor, at: int) -> None:
        batch[at % batch_size] = image

    single: list[Work] = [
        lambda data, at: decode_pixels(data),
        lambda image, at: resized(image, p),
        lambda image, at: train_crop(image, p, "vpt", sample_rng(0, 0, at)),
        into_batch,
    ]
    scale = _median_ms(lambda: normalise(batch, p.mean, p.std), rounds) / batch_size
    return dict(zip(STAGES, [*_each(images, single, rounds), scale], strict=True))


def their_stages(images: Sequence[bytes], p: Preprocessing, batch_size: int, rounds: int) -> dict[str, float]:
    """The stages of torchvision's usual transforms."""
    resize = v1.Resize(p.resize, interpolation=v1.InterpolationMode.BICUBIC, antialias=True)
    crop = v1.Compose([v1.RandomCrop(p.img_size), v1.RandomHorizontalFlip()])
    scale = v1.Normalize(p.mean, p.std)
    single: list[Work] = [
        lambda data, at: Image.open(io.BytesIO(data)).convert("RGB"),
        lambda image, at: resize(image),
        lambda image, at: crop(image),
        lambda image, at: v1_ops.to_tensor(image),
        lambda image, at: scale(image),
    ]
    found = _each(images, single, rounds)
    stacked = [torch.zeros(3, p.img_size, p.img_size) for _ in range(batch_size)]
    found[3] += _median_ms(lambda: torch.stack(stacked), rounds) / batch_size
    return dict(zip(STAGES, found, strict=True))


def _each(images: Sequence[bytes], stages: Sequence[Work], rounds: int) -> list[float]:
    """Milliseconds an image of each stage, on what the stage before it gives."""
    found, given = [], list(images)
    for work in stages:
        results: list[Any] = []

        def once(work: Work = work, given: list[Any] = given, results: list[Any] = results) -> None:
            results[:] = [work(item, at) for at, item in enumerate(given)]

        found.append(_median_ms(once, rounds) / len(given))
        given = results
    return found


def _median_ms(work: Callable[[], object], rounds: int) -> float:
    times = []
    for _ in range(rounds + 1):
        started = time.perf_counter()
        work()
        times.append((time.perf_counter() - started) * 1000)
    return median(times[1:])
