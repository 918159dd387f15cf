"""Decoding and augmenting on one core: images a second beside torchvision's ImageFolder and DataLoader.

    OMP_NUM_THREADS=1 python benchmarks/input.py [--photos FOLDER]

Both read the same JPEGs, those of FOLDER and drawn ones of 500x375, as they are and pre-resized, and give normalised
float32 batches. The process and its workers are bound to one core; the sides take turns, and a number is the median of
the rounds. Writes docs/results/input/speed.{md,json}.
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
from input_stages import Stages, our_stages, their_stages
from input_stages import page as stages_page
from PIL import Image
from result_file import write_result
from torch import Tensor
from torch.utils.data import DataLoader
from torchvision import transforms as v1
from torchvision.datasets import ImageFolder
from torchvision.io import ImageReadMode, decode_image
from torchvision.transforms import v2

from utuning.data.encode import read_shrunk
from utuning.data.loader import Loader
from utuning.data.parquet import image_schema
from utuning.data.transforms import Preprocessing, normalise

RESULT = Path(__file__).parent.parent / "docs" / "results" / "input"
SIZES = ((224, 256), (112, 128))
CASES = ("rrc", "vpt", "eval")
BATCH_SIZE = 32
CUBIC = v1.InterpolationMode.BICUBIC
SCALES = ((60, 0.6), (16, 0.25), (4, 0.1), (2, 0.05))
OURS, CACHED, SMALLER = "ours", "ours, cached", "ours, pre-resized"
ALONE, WORKER, TENSORS, THEIR_SMALLER = "0 workers", "1 worker", "v2 on tensors", "pre-resized"
SIDES = (OURS, CACHED, SMALLER, ALONE, WORKER, TENSORS, THEIR_SMALLER)
RATIOS = ("as they came", "both pre-resized", "ours pre-resized", "ours cached")
BAR = 1.5
PAGE = """# Decoding and augmenting on one core

`python benchmarks/input.py`: images a second from JPEG to normalised batches of {batch}, bicubic, all on one core;
medians of {rounds} rounds of {images} images, taken in turns. `rrc` is a random resized crop and a flip, `vpt` a random
square of the resized image and a flip, `eval` its centre. *Ours* decodes every image in every epoch; *cached* is what
later epochs cost where the decoded images fit into memory; *pre-resized* reads what `utuning prepare --shorter-side`
stores, with the side that the case resizes to (256 px for 224, 128 px for 112). The other columns are ImageFolder and
DataLoader: torchvision's usual transforms (Pillow) with 0 and 1 workers; *v2 on tensors* with torchvision's decoder
and transforms of tensors; *pre-resized* the usual ones, 0 workers, on the very files that ours reads. Machine, commit
and versions stand in [speed.json](speed.json).

| photos | case | px | {sides} |
|---|---|---:|{rule}
{lines}

## Ratios

Images a second to those of ImageFolder with the usual transforms and 0 or 1 workers, whichever is faster. The bar is
1.5; what misses it is in italics. *As they came* and *both pre-resized* compare the same files. *Ours pre-resized* and
*ours cached* stand against ImageFolder on the photos as they came: what preparing, or an epoch before, has saved
counts.

| photos | case | px | {ratios} |
|---|---|---:|{ratio_rule}
{ratio_lines}

{reached}
"""

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
    def ratios(self) -> dict[str, float]:
        """Ours to torchvision's usual ways; see the page."""
        usual = max(self.rates[ALONE], self.rates[WORKER])
        found = (
            self.rates[OURS] / usual,
            self.rates[SMALLER] / self.rates[THEIR_SMALLER],
            self.rates[SMALLER] / usual,
            self.rates[CACHED] / usual,
        )
        return dict(zip(RATIOS, found, strict=True))

    def line(self) -> str:
        """The rates as Markdown."""
        rates = " | ".join(f"{self.rates[side]:,.0f}" for side in SIDES)
        return f"| {self.photos} | {self.case} | {self.size} | {rates} |"

    def ratio_line(self) -> str:
        """The ratios as Markdown."""
        ratios = " | ".join(f"{r:.2f}" if r >= BAR else f"*{r:.2f}*" for r in self.ratios.values())
        return f"| {self.photos} | {self.case} | {self.size} | {ratios} |"


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


def stored(folder: Path, images: list[bytes]) -> Path:
    """Write images as ImageFolder wants them."""
    (folder / "photo").mkdir(parents=True)
    for number, data in enumerate(images):
        (folder / "photo" / f"{number:05d}.jpg").write_bytes(data)
    return folder


def measured(name: str, images: list[bytes], case: str, p: Preprocessing, rounds: int) -> Speed:
    """All sides in turns; the first pass of each is not counted."""
    smaller = [read_shrunk(data, "", p.resize) for data in images]
    with tempfile.TemporaryDirectory() as temporary:
        folder, small_folder = (
            stored(Path(temporary) / name, each) for name, each in (("whole", images), ("small", smaller))
        )
        plain = pillow_transform(case, p)
        passes = {
            OURS: ours(images, case, p, 0),
            CACHED: ours(images, case, p, 1 << 40),
            SMALLER: ours(smaller, case, p, 0),
            ALONE: theirs(folder, plain, case, 0),
            WORKER: theirs(folder, plain, case, 1),
            TENSORS: theirs(folder, tensor_transform(case, p), case, 0, loader=decoded),
            THEIR_SMALLER: theirs(small_folder, plain, case, 0),
        }
        found: dict[str, list[float]] = {side: [] for side in SIDES}
        for round_ in range(rounds + 1):
            for side, once in passes.items():
                started = time.perf_counter()
                count = sum(len(batch) for batch in once())
                if round_:
                    found[side].append(count / (time.perf_counter() - started))
    return Speed(name, case, p.img_size, {side: median(rates) for side, rates in found.items()}, found)


def by_stage(images: list[bytes], speed: Speed, p: Preprocessing, rounds: int) -> list[Stages]:
    """Where the time of a case goes, ours and theirs."""
    sides = (("ours", our_stages, OURS), ("ImageFolder", their_stages, ALONE))
    return [
        Stages(speed.photos, p.img_size, whose, work(images, p, BATCH_SIZE, rounds), 1000 / speed.rates[side])
        for whose, work, side in sides
    ]


def page(speeds: list[Speed], stages: list[Stages], rounds: int, images: int) -> str:
    """The result as Markdown."""
    counts = {name: sum(speed.ratios[name] >= BAR for speed in speeds) for name in RATIOS}
    reached = ", ".join(f"{name} {count}" for name, count in counts.items())
    return PAGE.format(
        batch=BATCH_SIZE,
        rounds=rounds,
        images=images,
        sides=" | ".join(SIDES),
        rule="---:|" * len(SIDES),
        lines="\n".join(speed.line() for speed in speeds),
        ratios=" | ".join(RATIOS),
        ratio_rule="---:|" * len(RATIOS),
        ratio_lines="\n".join(speed.ratio_line() for speed in speeds),
        reached=f"Cases of {len(speeds)} that reach the bar: {reached}.",
    ) + stages_page(stages, rounds)


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
    speeds: list[Speed] = []
    stages: list[Stages] = []
    for name, images in sets.items():
        for img_size, resize in SIZES:
            p = Preprocessing(img_size=img_size, resize=resize)
            for case in CASES:
                speeds.append(measured(name, images, case, p, args.rounds))
                print(speeds[-1].line(), speeds[-1].ratio_line(), flush=True)
                if case == "vpt":
                    stages += by_stage(images, speeds[-1], p, args.rounds)
    args.to.mkdir(parents=True, exist_ok=True)
    (args.to / "speed.md").write_text(page(speeds, stages, args.rounds, args.images))
    write_result(
        args.to / "speed.json",
        "python benchmarks/input.py",
        rounds=args.rounds,
        images=args.images,
        rows=[{**asdict(speed), "ratios": speed.ratios} for speed in speeds],
        stages=[asdict(each) for each in stages],
    )


if __name__ == "__main__":
    main()
