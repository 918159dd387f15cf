"""A million images from Parquet shards in constant memory: each image is read when it is asked for.

    OMP_NUM_THREADS=1 python benchmarks/streaming.py [--rows 1000000] [--work FOLDER]

Writes sets of a hundredth, a tenth and all of the rows (64x64 JPEGs, a few hundred different ones over and over, 2.5 GB
in all), and loads one whole epoch of each in a process of its own: shuffled, decoded, cropped, in batches. The same
split as a table in memory stands beside it. Writes docs/results/input/streaming.{md,json,png}.
"""

import argparse
import io
import multiprocessing
import tempfile
import time
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image
from result_file import write_result
from timing import resident_bytes

from utuning.data.examples import Example
from utuning.data.loader import Loader
from utuning.data.opening import open_dataset, read_split
from utuning.data.rows import Rows, TableRows
from utuning.data.shards import write_dataset
from utuning.data.stored import stored_rows
from utuning.data.transforms import Preprocessing

RESULT = Path(__file__).parent.parent / "docs" / "results" / "input"
DISTINCT, BATCH_SIZE, SAMPLES = 256, 256, 400
TABLE_IMAGES = 20_000
CONSTANT = 0.01
"""Memory may grow by so much of the bytes that are read meanwhile, and still be called constant."""
PAGE = """# Reading a large split row by row

`python benchmarks/streaming.py`: sets of 64x64 JPEGs, each loaded by a process of its own on one thread: one epoch,
all images in their shuffled order, decoded and cropped in batches of {batch}, nothing cached. *Memory* is the most that
the process held (resident set, noted {samples} times in the epoch) above what it held before it opened the split.
*At first* is the most in the first tenth of the epoch, *then* the most in all the rest. *As a table* is the same for a
process that reads the whole split into memory first, and then loads {table:,} images. *Places* is finding where each
image lies, which is done once for a machine; *opened again* uses what was found. Machine, commit and versions stand in
[streaming.json](streaming.json).

| images | on disk | memory at first | then | as a table | places | opened again | images/s |
|---:|---:|---:|---:|---:|---:|---:|---:|
{lines}

![resident memory over images loaded](streaming.png)

While the last nine tenths of {rows:,} images were loaded ({read_mb:,.0f} MB of JPEGs), memory grew by
{grown_mb:,.1f} MB, {share:.2%} of what was read: {verdict} (bar: at most {bar:.0%}). Before that, memory grows with
the number of images by what is held for each: its place and its label, 32 bytes, and its number in the shuffled
order, 16.
"""


@dataclass(frozen=True)
class Streamed:
    """One line of the table; `samples` are images loaded and bytes held."""

    rows: int
    disk_bytes: int
    first_bytes: int
    then_bytes: int
    table_bytes: int
    places_s: float
    open_s: float
    rate: float
    samples: list[tuple[int, int]]

    @property
    def grown_bytes(self) -> int:
        """By how much memory grew after the first tenth."""
        return max(0, self.then_bytes - self.first_bytes)

    @property
    def share(self) -> float:
        """The same as a share of what was read meanwhile."""
        return self.grown_bytes / (0.9 * self.disk_bytes)

    def line(self) -> str:
        """As Markdown."""
        held = (self.disk_bytes, self.first_bytes, self.then_bytes, self.table_bytes)
        memory = " | ".join(f"{count / 1e6:,.0f} MB" for count in held)
        return f"| {self.rows:,} | {memory} | {self.places_s:.1f} s | {self.open_s:.2f} s | {self.rate:,.0f} |"


def write_set(to: Path, num_rows: int) -> int:
    """Write a train split; gives its bytes."""
    random, images = np.random.default_rng(0), []
    for _ in range(DISTINCT):
        buffer = io.BytesIO()
        pixels = random.integers(0, 256, (8, 8, 3), dtype=np.uint8)
        Image.fromarray(pixels).resize((64, 64), Image.Resampling.BICUBIC).save(buffer, "JPEG", quality=90)
        images.append(buffer.getvalue())
    rows = [
        Example(path=f"{n}.jpg", label=f"{n % 100:02d}", split="train", data=images[n % DISTINCT])
        for n in range(num_rows)
    ]
    write_dataset(rows, to, name="synthetic", class_names=[f"{label:02d}" for label in range(100)])
    return sum(file.stat().st_size for file in to.rglob("*.parquet"))


def timed(work: Callable[[], Any]) -> tuple[Any, float]:
    """A result and its seconds."""
    started = time.perf_counter()
    return work(), time.perf_counter() - started


def load(rows: Rows, images: int, start: int) -> list[tuple[int, int]]:
    """Load the first images of an epoch; gives images loaded and bytes held above `start`, as it goes."""
    p = Preprocessing(img_size=56, resize=64)
    samples, seen = [(0, resident_bytes() - start)], 0
    for batch in Loader(rows, p, global_batch_size=BATCH_SIZE, cache_bytes=0).epoch(0):
        seen += int(batch.weight.sum())
        if seen >= len(samples) * images / SAMPLES:
            samples.append((seen, resident_bytes() - start))
        if seen >= images:
            break
    return samples


def by_row(folder: Path) -> dict[str, Any]:
    """Stream a set."""
    info, cache = open_dataset(folder), folder.parent / f"{folder.name}-cache"
    start = resident_bytes()
    rows, places_s = timed(lambda: stored_rows(info, "train", cache))
    rows, open_s = timed(lambda: stored_rows(info, "train", cache))
    total = len(rows.labels)
    samples, load_s = timed(lambda: load(rows, total, start))
    return {
        "first_bytes": max(held for seen, held in samples if seen <= total / 10),
        "then_bytes": max(held for seen, held in samples if seen > total / 10),
        "places_s": places_s,
        "open_s": open_s,
        "rate": total / load_s,
        "samples": samples,
    }


def as_table(folder: Path) -> int:
    """Read a set into memory; gives the bytes that this takes."""
    info, start = open_dataset(folder), resident_bytes()
    rows = TableRows(read_split(info, "train"))
    return max(held for _, held in load(rows, min(TABLE_IMAGES, len(rows.labels)), start))


def plot(found: Sequence[Streamed], to: Path) -> None:
    """Draw memory over images loaded."""
    import matplotlib

    matplotlib.use("agg")
    from matplotlib import pyplot

    figure, axes = pyplot.subplots(figsize=(8, 4), layout="constrained")
    for each in found:
        images, held = zip(*each.samples[1:], strict=True)
        axes.plot(
            images, [count / 1e6 for count in held], label=f"{each.rows:,} images, {each.disk_bytes / 1e6:,.0f} MB"
        )
    axes.set(xlabel="images loaded", ylabel="MB held above the start", xscale="log", ylim=(0, None))
    axes.grid(alpha=0.3)
    axes.legend(frameon=False, loc="lower right")
    figure.savefig(to, dpi=150)


def page(found: Sequence[Streamed]) -> str:
    """The result as Markdown."""
    last = found[-1]
    return PAGE.format(
        batch=BATCH_SIZE,
        samples=SAMPLES,
        table=TABLE_IMAGES,
        lines="\n".join(each.line() for each in found),
        rows=last.rows,
        read_mb=0.9 * last.disk_bytes / 1e6,
        grown_mb=last.grown_bytes / 1e6,
        share=last.share,
        verdict="it is constant" if last.share <= CONSTANT else "it is **not** constant",
        bar=CONSTANT,
    )


def _alone(work: Callable[..., Any], *arguments: object) -> Any:
    # A process that has done nothing else has no memory that it could use again.
    with multiprocessing.get_context("spawn").Pool(1, initializer=torch.set_num_threads, initargs=(1,)) as pool:
        return pool.apply(work, arguments)


def main() -> None:
    """Measure and write."""
    parser = argparse.ArgumentParser()
    parser.add_argument("--rows", type=int, default=1_000_000)
    parser.add_argument("--work", type=Path, help="where the sets are written for the time being")
    parser.add_argument("--to", type=Path, default=RESULT)
    args = parser.parse_args()
    found = []
    for num_rows in (args.rows // 100, args.rows // 10, args.rows):
        with tempfile.TemporaryDirectory(dir=args.work) as folder:
            path = Path(folder) / "set"
            disk_bytes, write_s = timed(partial(_alone, write_set, path, num_rows))
            facts = {"disk_bytes": disk_bytes, "table_bytes": _alone(as_table, path), **_alone(by_row, path)}
            found.append(Streamed(rows=num_rows, **facts))
            print(found[-1].line(), f"written in {write_s:.0f} s", flush=True)
    args.to.mkdir(parents=True, exist_ok=True)
    (args.to / "streaming.md").write_text(page(found))
    plot(found, args.to / "streaming.png")
    write_result(args.to / "streaming.json", "python benchmarks/streaming.py", rows=[asdict(each) for each in found])


if __name__ == "__main__":
    main()
