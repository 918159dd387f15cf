"""A million images from Parquet shards in constant memory: each image is read when it is asked for.

    OMP_NUM_THREADS=1 python benchmarks/streaming.py [--rows 1000000] [--work FOLDER]

Writes sets of a hundredth, a tenth and all of the rows (64x64 JPEGs, a few hundred different ones over and over, 2 GB
in all), and reads each in a process of its own: an epoch's images in their shuffled order, then so many of its batches.
The same split as a table in memory stands beside it. Writes docs/results/input/streaming.{md,json}.
"""

import argparse
import io
import multiprocessing
import tempfile
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image
from result_file import table_row, write_result
from timing import resident_bytes

from utuning.data.examples import Example
from utuning.data.loader import Loader
from utuning.data.opening import open_dataset, read_split
from utuning.data.order import epoch_order
from utuning.data.rows import TableRows
from utuning.data.shards import write_dataset
from utuning.data.stored import StoredRows, stored_rows
from utuning.data.transforms import Preprocessing

RESULT = Path(__file__).parent.parent / "docs" / "results" / "input"
DISTINCT, BATCH_SIZE, DECODED = 256, 256, 40_000
PAGE = """# Reading a large split row by row

`python benchmarks/streaming.py`: sets of 64x64 JPEGs, each read by a process of its own on one thread. *Memory* is the
most that the process held at a time (resident set, sampled every 20 ms) above what it held before it opened the split.
Row by row, it reads all images of an epoch in their shuffled order, then decodes and crops {decoded:,} of them in
batches of {batch} with nothing cached; as a table, it reads the whole split first. *Places* is finding where each image
lies, which is done once for a machine. Machine, commit and versions stand in [streaming.json](streaming.json).

| images | on disk | memory, row by row | memory, as a table | places | opened again | images/s read | decoded |
|---:|---:|---:|---:|---:|---:|---:|---:|"""


@dataclass(frozen=True)
class Streamed:
    """One line of the table."""

    rows: int
    disk_bytes: int
    peak_bytes: int
    table_bytes: int
    places_s: float
    open_s: float
    read_rate: float
    decode_rate: float

    def line(self) -> str:
        """As Markdown."""
        memory = (f"{count / 1e6:,.0f} MB" for count in (self.disk_bytes, self.peak_bytes, self.table_bytes))
        times = (f"{self.places_s:.1f} s", f"{self.open_s:.2f} s")
        rates = (f"{rate:,.0f}" for rate in (self.read_rate, self.decode_rate))
        return table_row(f"{self.rows:,}", *memory, *times, *rates)


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


@contextmanager
def peak() -> Iterator[Callable[[], int]]:
    """Sample the resident set; the function gives the most above its start."""
    done, start, found = threading.Event(), resident_bytes(), [0]

    def sample() -> None:
        while not done.wait(0.02):
            found.append(max(found[-1], resident_bytes() - start))

    thread = threading.Thread(target=sample)
    thread.start()
    try:
        yield lambda: found[-1]
    finally:
        done.set()
        thread.join()


def timed(work: Callable[[], Any]) -> tuple[Any, float]:
    """A result and its seconds."""
    started = time.perf_counter()
    return work(), time.perf_counter() - started


def by_row(folder: Path) -> dict[str, Any]:
    """Stream a set."""
    info, cache = open_dataset(folder), folder.parent / f"{folder.name}-cache"
    with peak() as most:
        rows, places_s = timed(lambda: stored_rows(info, "train", cache))
        rows, open_s = timed(lambda: stored_rows(info, "train", cache))
        count = len(rows.labels)
        _, read_s = timed(lambda: read_all(rows))
        decoded, decode_s = timed(lambda: decode_some(rows))
        return {
            "peak_bytes": most(),
            "places_s": places_s,
            "open_s": open_s,
            "read_rate": count / read_s,
            "decode_rate": decoded / decode_s,
        }


def read_all(rows: StoredRows | TableRows) -> None:
    """Read every image once, in the order of an epoch."""
    for row in epoch_order(len(rows.labels), 0, 0, shuffle=True).tolist():
        rows.image(row)


def decode_some(rows: StoredRows) -> int:
    """Load the first batches of an epoch; gives the number of images."""
    p = Preprocessing(img_size=56, resize=64)
    loader, seen = Loader(rows, p, global_batch_size=BATCH_SIZE, cache_bytes=0), 0
    for batch in loader.epoch(0):
        seen += int(batch.weight.sum())
        if seen >= DECODED:
            break
    return seen


def as_table(folder: Path) -> int:
    """Read a set into memory; gives the bytes that this takes."""
    with peak() as most:
        read_all(TableRows(read_split(open_dataset(folder), "train")))
        return most()


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
            disk_bytes = _alone(write_set, path, num_rows)
            facts = {"disk_bytes": disk_bytes, "table_bytes": _alone(as_table, path), **_alone(by_row, path)}
            found.append(Streamed(rows=num_rows, **facts))
            print(found[-1].line(), flush=True)
    page = "\n".join([PAGE.format(decoded=DECODED, batch=BATCH_SIZE), *(each.line() for each in found), ""])
    rows = [asdict(each) for each in found]
    write_result(args.to / "streaming.json", "python benchmarks/streaming.py", page, rows=rows)


if __name__ == "__main__":
    main()
