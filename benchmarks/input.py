"""Decoding and augmenting on one core: images a second beside torchvision's ImageFolder and DataLoader.

    OMP_NUM_THREADS=1 python benchmarks/input.py [--photos FOLDER]

Both read the same JPEGs, those of FOLDER and drawn ones of 500x375, and give normalised float32 batches. The process
and its workers are bound to one core; the sides take turns, and a number is the median of the rounds. Writes
docs/results/input/speed.{md,json}.
"""

import argparse
import io
import os
import tempfile
import time
from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass
from pathlib import Path
from statistics import median

import numpy as np
import pyarrow as pa
import torch
from PIL import Image
from result_file import write_result
from torch import Tensor
from torch.utils.data import DataLoader
from torchvision import transforms as v1
from torchvision.datasets import ImageFolder
from torchvision.io import ImageReadMode, decode_image
from torchvision.transforms import v2

from utuning.data.loader import Loader
from utuning.data.parquet import image_schema
from utuning.data.transforms import Preprocessing, normalise

RESULT = Path(__file__).parent.parent / "docs" / "results" / "input"
SIZES = ((224, 256), (112, 128))
CASES = ("rrc", "vpt", "eval")
BATCH_SIZE = 32
CUBIC = v1.InterpolationMode.BICUBIC
SCALES = ((60, 0.6), (16, 0.25), (4, 0.1), (2, 0.05))
SIDES = ("ours", "ours, cached", "ImageFolder, 0 workers", "ImageFolder, 1 worker", "ImageFolder, v2 on tensors")
PAGE = """# Decoding and augmenting on one core

`python benchmarks/input.py`: images a second from JPEG to normalised batches of {batch}, bicubic, all on one core;
medians of {rounds} rounds of {images} images, taken in turns. `rrc` is a random resized crop and a flip, `vpt` a random
square of the resized image and a flip, `eval` its centre. *Ours* decodes every image in every epoch; *cached* is what
later epochs cost where the decoded images fit into memory. The ratio is ours, not cached, to the faster of ImageFolder
with torchvision's usual transforms (Pillow) and 0 or 1 workers; *v2 on tensors* is the same with torchvision's decoder
and transforms of tensors. Machine, commit and versions stand in [speed.json](speed.json).

| photos | case | px | {sides} | ratio (bar: ≥1.5) |
|---|---|---:|{rule}---:|"""

Pass = Callable[[], Iterator[Tensor]]


@dataclass(frozen=True)
class Speed:
    """One line of the table; images a second of each side, its median and all rounds."""

    photos: str
    case: str
    size: int
    rates: dict[str, float]
    rounds: dict[str, list[float]]

    @property
    def ratio(self) -> float:
        """Ours to the faster one of torchvision's usual ways."""
        return self.rates["ours"] / max(self.rates[side] for side in SIDES[2:4])

    def line(self) -> str:
        """As Markdown."""
        rates = " | ".join(f"{self.rates[side]:,.0f}" for side in SIDES)
        return f"| {self.photos} | {self.case} | {self.size} | {rates} | {self.ratio:.2f} |"


def drawn_photo(seed: int, width: int = 500, height: int = 375) -> bytes:
    """A JPEG that costs a decoder what a photo does: patches of all sizes, no sharp noise."""
    random, pixels = np.random.default_rng(seed), np.zeros((height, width, 3))
    for scale, weight in SCALES:
        patches = random.integers(0, 256, (height // scale, width // scale, 3), dtype=np.uint8)
        pixels += weight * np.asarray(Image.fromarray(patches).resize((width, height), Image.Resampling.BICUBIC))
    buffer = io.BytesIO()
    Image.fromarray(pixels.astype(np.uint8)).save(buffer, "JPEG", quality=90)
    return buffer.getvalue()


def real_photos(folder: Path, count: int) -> list[bytes]:
    """So many of a folder's JPEGs, evenly spaced by name."""
    files = sorted(file for file in folder.rglob("*") if file.suffix.lower() in (".jpg", ".jpeg"))
    if not files:
        raise SystemExit(f"{folder} holds no JPEGs; name a folder of photos")
    return [files[at].read_bytes() for at in np.linspace(0, len(files) - 1, count).astype(int)]


def ours(images: list[bytes], case: str, p: Preprocessing, cache_bytes: int) -> Pass:
    """This package's loader, and what the backbone does to its batches."""
    columns = {"image": [{"bytes": data, "path": ""} for data in images], "label": [0] * len(images)}
    table = pa.Table.from_pydict(columns, schema=image_schema(["photo"]))
    recipe = {} if case == "eval" else {"recipe": case}
    loader = Loader(
        table, p, global_batch_size=BATCH_SIZE, train=case != "eval", threads=1, cache_bytes=cache_bytes, **recipe
    )
    return lambda: (normalise(batch.pixels, p.mean, p.std) for batch in loader.epoch(0))


def theirs(folder: Path, transform: Callable[..., Tensor], case: str, workers: int, **options: object) -> Pass:
    """torchvision's ImageFolder behind torch's DataLoader."""
    loader = DataLoader(
        ImageFolder(folder, transform, **options),
        BATCH_SIZE,
        shuffle=case != "eval",
        num_workers=workers,
        persistent_workers=workers > 0,
    )
    return lambda: (images for images, _ in loader)


def pillow_transform(case: str, p: Preprocessing) -> Callable[..., Tensor]:
    """What training scripts write."""
    return v1.Compose([*_crops(v1, case, p), v1.ToTensor(), v1.Normalize(p.mean, p.std)])


def tensor_transform(case: str, p: Preprocessing) -> Callable[..., Tensor]:
    """The same in torchvision's second version, on decoded tensors."""
    return v2.Compose([*_crops(v2, case, p), v2.ToDtype(torch.float32, scale=True), v2.Normalize(p.mean, p.std)])


def _crops(kind: object, case: str, p: Preprocessing) -> list[object]:
    flip = [kind.RandomHorizontalFlip()]
    if case == "rrc":
        return [kind.RandomResizedCrop(p.img_size, interpolation=CUBIC, antialias=True), *flip]
    resize = kind.Resize(p.resize, interpolation=CUBIC, antialias=True)
    return [resize, kind.CenterCrop(p.img_size)] if case == "eval" else [resize, kind.RandomCrop(p.img_size), *flip]


def decoded(path: str) -> Tensor:
    """An image file as a tensor."""
    return decode_image(path, ImageReadMode.RGB)


def measured(name: str, images: list[bytes], case: str, p: Preprocessing, rounds: int) -> Speed:
    """All sides in turns; the first pass of each is not counted."""
    with tempfile.TemporaryDirectory() as folder:
        (Path(folder) / "photo").mkdir()
        for number, data in enumerate(images):
            (Path(folder) / "photo" / f"{number:05d}.jpg").write_bytes(data)
        plain = pillow_transform(case, p)
        passes = [
            ours(images, case, p, 0),
            ours(images, case, p, 1 << 40),
            theirs(Path(folder), plain, case, 0),
            theirs(Path(folder), plain, case, 1),
            theirs(Path(folder), tensor_transform(case, p), case, 0, loader=decoded),
        ]
        found: dict[str, list[float]] = {side: [] for side in SIDES}
        for round_ in range(rounds + 1):
            for side, once in zip(SIDES, passes, strict=True):
                started = time.perf_counter()
                count = sum(len(batch) for batch in once())
                if round_:
                    found[side].append(count / (time.perf_counter() - started))
    return Speed(name, case, p.img_size, {side: median(rates) for side, rates in found.items()}, found)


def main() -> None:
    """Measure and write."""
    parser = argparse.ArgumentParser()
    parser.add_argument("--photos", type=Path, help="a folder of JPEGs, searched with all below it")
    parser.add_argument("--images", type=int, default=160)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--to", type=Path, default=RESULT)
    args = parser.parse_args()
    torch.set_num_threads(1)
    os.sched_setaffinity(0, {max(os.sched_getaffinity(0))})
    sets = {"drawn, 500x375": [drawn_photo(seed) for seed in range(args.images)]}
    if args.photos:
        sets = {args.photos.name: real_photos(args.photos, args.images), **sets}
    speeds = []
    for name, images in sets.items():
        for img_size, resize in SIZES:
            for case in CASES:
                p = Preprocessing(img_size=img_size, resize=resize)
                speeds.append(measured(name, images, case, p, args.rounds))
                print(speeds[-1].line(), flush=True)
    args.to.mkdir(parents=True, exist_ok=True)
    page = PAGE.format(
        batch=BATCH_SIZE, rounds=args.rounds, images=args.images, sides=" | ".join(SIDES), rule="---:|" * len(SIDES)
    )
    (args.to / "speed.md").write_text("\n".join([page, *(speed.line() for speed in speeds), ""]))
    rows = [{**asdict(speed), "ratio": speed.ratio} for speed in speeds]
    write_result(
        args.to / "speed.json", "python benchmarks/input.py", rounds=args.rounds, images=args.images, rows=rows
    )


if __name__ == "__main__":
    main()
