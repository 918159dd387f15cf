"""A bounded load test of the server on loopback: latency and images a second of 16 mixed tuners in one server, beside
one tuner alone, beside one process per tuner, and beside no batching.

    python benchmarks/serving.py [--seconds 8] [--rounds 2] [--clients 16]

Servers are real processes (`utuning serve`) with one CPU thread each; clients are threads of one more process, each
sends its next request when it has its answer. Writes docs/results/serving/server.{md,json}.
"""

import argparse
import io
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor, ThreadPoolExecutor
from contextlib import ExitStack, contextmanager
from dataclasses import asdict, dataclass
from http.client import HTTPConnection
from multiprocessing import get_context
from pathlib import Path
from statistics import median, quantiles

import numpy as np
import torch
from PIL import Image
from result_file import table_row, write_result
from timing import resident_bytes

from utuning.backbone import Backbone
from utuning.bundles.bundle import save_bundle
from utuning.configs import TrainConfig, TrialConfig, TunerConfig
from utuning.member import Member

RESULT = Path(__file__).parent.parent / "docs" / "results" / "serving"
NUM_CLASSES, NUM_TUNERS, NUM_PROCESSES, NUM_PHOTOS, WARM_S = 100, 16, 4, 32, 1.0
P_ADAPTER = TunerConfig(method="p_adapter", ops=("attn", "mlp"), settings={"bottleneck_dim": 8, "init": "xavier"})
PAGE = """# Serving over HTTP, under load

`python benchmarks/serving.py`. A ViT-Ti/16 of twelve blocks at 96 px with random weights; tuners are P-Adapters of
width 8 beside attention and MLP of all blocks, with heads of 100 classes, fp32. {clients} clients on loopback send one
JPEG of 128 px each and wait for their answer; servers have one CPU thread each, and share the machine with the clients.
Medians of {rounds} rounds of {seconds:g} s; latency is what a client measures. Machine, commit and versions stand in
[server.json](server.json).

| what serves | images/s | p50, ms | p99, ms | memory, MB |
|---|---:|---:|---:|---:|"""


@dataclass(frozen=True)
class Side:
    """What is compared: so many servers with so many tuners each, and what a request asks for."""

    what: str
    num_servers: int
    tuners_each: int
    everybody: bool = False
    options: tuple[str, ...] = ()


@dataclass(frozen=True)
class Line:
    """One line of the table."""

    what: str
    images_per_s: float
    p50_ms: float
    p99_ms: float
    memory_mb: float
    num_requests: int

    def row(self) -> str:
        """As Markdown."""
        numbers = (self.images_per_s, self.p50_ms, self.p99_ms, self.memory_mb)
        return table_row(self.what, *(f"{number:.0f}" for number in numbers))


SIDES = (
    Side("one server, one tuner", 1, 1),
    Side(f"one server, {NUM_TUNERS} tuners, each request another", 1, NUM_TUNERS),
    Side(f"one server, {NUM_TUNERS} tuners, no batches", 1, NUM_TUNERS, options=("--max-batch", "1")),
    Side(f"one server, {NUM_TUNERS} tuners, each request all of them", 1, NUM_TUNERS, everybody=True),
    Side(f"one server, {NUM_PROCESSES} tuners, each request another", 1, NUM_PROCESSES),
    Side(f"{NUM_PROCESSES} servers, one tuner each", NUM_PROCESSES, 1),
)


def bundles(folder: Path) -> list[Path]:
    """Bundles of tuners that differ in their values."""
    frozen = Backbone.load("vit_tiny_patch16_224", weights="none", img_size=96)
    made = []
    for seed in range(NUM_TUNERS):
        config = TrialConfig(
            dataset="noise",
            data_fingerprint="none",
            backbone=frozen.config.name,
            backbone_fingerprint=frozen.fingerprint,
            num_classes=NUM_CLASSES,
            protocol="random values",
            train=TrainConfig(lr=1e-3, epochs=1, seed=seed),
            tuners=(P_ADAPTER,),
        )
        member = Member.from_trial(frozen, config)
        generator = torch.Generator().manual_seed(seed)
        with torch.no_grad():
            for parameter in member.parameters():
                parameter.normal_(std=0.02, generator=generator)
        names = [f"class {number}" for number in range(NUM_CLASSES)]
        made.append(
            save_bundle(
                folder / f"tuner{seed}",
                member,
                backbone=frozen,
                trial=config,
                class_names=names,
                metrics={},
                versions={},
            )
        )
    return made


@contextmanager
def serving(paths: Sequence[Path], options: Sequence[str]) -> Iterator[tuple[int, int]]:
    """A server's process: its port and its id."""
    command = [sys.executable, "-m", "pipelines.cli", "serve", *map(str, paths), "--port", "0", *options]
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "PYTHONUNBUFFERED": "1"}
    process = subprocess.Popen(command, stdout=subprocess.PIPE, text=True, env=environment)
    assert process.stdout is not None
    try:
        for line in process.stdout:
            if line.startswith("serving on"):
                yield int(line.split()[2].rpartition(":")[2]), process.pid
                break
        else:
            raise SystemExit("a server did not start")
    finally:
        process.terminate()
        process.wait()


def photos() -> list[bytes]:
    """JPEGs of smooth noise, about as large as small photos."""
    made = []
    for seed in range(NUM_PHOTOS):
        coarse = np.random.default_rng(seed).integers(0, 256, (16, 16, 3), dtype=np.uint8)
        content = io.BytesIO()
        Image.fromarray(coarse).resize((128, 128), Image.Resampling.BICUBIC).save(content, "JPEG", quality=90)
        made.append(content.getvalue())
    return made


def client(number: int, port: int, names: Sequence[str], ends: float, starts: float) -> list[float]:
    """Seconds of each request that began and ended in the measured time."""
    connection = HTTPConnection("127.0.0.1", port, timeout=60)
    images, seconds, turn = photos(), [], number
    while (now := time.monotonic()) < ends:
        name = names[turn % len(names)]
        body = (
            b'--edge\r\nContent-Disposition: form-data; name="images"; filename="a.jpg"\r\n\r\n'
            + images[turn % NUM_PHOTOS]
            + f'\r\n--edge\r\nContent-Disposition: form-data; name="tuners"\r\n\r\n{name}\r\n--edge--\r\n'.encode()
        )
        connection.request("POST", "/v1/predict", body, {"Content-Type": "multipart/form-data; boundary=edge"})
        response = connection.getresponse()
        content = response.read()
        if response.status != 200:
            raise RuntimeError(f"a request failed: {content!r}")
        done = time.monotonic()
        if now >= starts and done <= ends:
            seconds.append(done - now)
        turn += 7
    connection.close()
    return seconds


def load(targets: Sequence[tuple[int, Sequence[str]]], num_clients: int, measured_s: float) -> list[float]:
    """Seconds of all requests that so many clients sent to these ports and tuners."""
    starts = time.monotonic() + WARM_S
    with ThreadPoolExecutor(num_clients) as threads:
        running = [
            threads.submit(client, number, *targets[number % len(targets)], starts + measured_s, starts)
            for number in range(num_clients)
        ]
        return [each for one in running for each in one.result()]


def round_of(side: Side, paths: Sequence[Path], num_clients: int, seconds: float) -> Line:
    """Start a side's servers, load them, end them."""
    with ExitStack() as stack, ProcessPoolExecutor(1, mp_context=get_context("spawn")) as loading:
        targets, processes = [], []
        for number in range(side.num_servers):
            mine = paths[number * side.tuners_each : (number + 1) * side.tuners_each]
            port, process = stack.enter_context(serving(mine, side.options))
            targets.append((port, ["all"] if side.everybody else [path.name for path in mine]))
            processes.append(process)
        found = loading.submit(load, targets, num_clients, seconds).result()
        memory = sum(resident_bytes(process) for process in processes) / 1e6
    hundredths = quantiles(found, n=100)
    return Line(side.what, len(found) / seconds, 1e3 * median(found), 1e3 * hundredths[98], memory, len(found))


def middle(lines: Sequence[Line]) -> Line:
    """The median of each number over rounds."""
    rows = [asdict(line) for line in lines]
    return Line(lines[0].what, **{key: median(row[key] for row in rows) for key in rows[0] if key != "what"})


def main() -> None:
    """Measure and write."""
    parser = argparse.ArgumentParser()
    parser.add_argument("--seconds", type=float, default=8.0, help="measured time of a round")
    parser.add_argument("--rounds", type=int, default=2)
    parser.add_argument("--clients", type=int, default=16)
    parser.add_argument("--out", type=Path, default=RESULT)
    given = parser.parse_args()
    torch.set_num_threads(1)
    with tempfile.TemporaryDirectory() as folder:
        paths = bundles(Path(folder))
        rounds = [[round_of(side, paths, given.clients, given.seconds) for side in SIDES] for _ in range(given.rounds)]
    lines = [middle(each) for each in zip(*rounds, strict=True)]
    numbers = {"seconds": given.seconds, "rounds": given.rounds, "clients": given.clients}
    page = "\n".join([PAGE.format(**numbers), *(line.row() for line in lines), ""])
    print(page)
    write_result(
        given.out / "server.json",
        "python benchmarks/serving.py",
        page,
        **numbers,
        rows=[asdict(line) for line in lines],
        rounds_of=[[asdict(line) for line in each] for each in rounds],
    )


if __name__ == "__main__":
    main()
