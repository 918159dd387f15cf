"""What it costs to serve many tuners from one pool: images a second of mixed batches, and bytes of held tuners.

    python benchmarks/pool.py [--rounds 15] [--held 1000]

Everything runs in one process with one thread. What is compared takes its batches in turns, and a ratio is that of the
medians. Writes docs/results/serving/pool.{md,json}.
"""

import argparse
from collections.abc import Sequence
from concurrent.futures import ProcessPoolExecutor
from dataclasses import asdict, dataclass
from multiprocessing import get_context
from pathlib import Path
from typing import Literal

import torch
from result_file import table_row, write_result
from timing import in_turns, resident_bytes

from utuning.backbone import Backbone
from utuning.configs import TrainConfig, TunerConfig
from utuning.member import Member
from utuning.pool import TunerPool

RESULT = Path(__file__).parent.parent / "docs" / "results" / "serving"
CONFIG = TrainConfig(lr=1e-3, epochs=1)
NUM_CLASSES, NUM_ROWS = 100, 64
P_ADAPTER = TunerConfig(method="p_adapter", ops=("attn", "mlp"), settings={"bottleneck_dim": 8, "init": "xavier"})
LORA = TunerConfig(method="lora")
OTHERS = ("ssf", "prefix_tuning", "vpt_deep", "unipt")
PAGE = """# Serving many tuners from one pool

`python benchmarks/pool.py`. Images: a ViT-Ti/16 of twelve blocks at 96 px (37 tokens) with random weights, batches of
64 rows, heads of 100 classes, fp32, one CPU thread; medians of {rounds} batches of each side, taken in turns. The first
number is what share of one tuner's images a second 64 tuners have in one batch, the second the same for 64 tuners that
get a call each. Bytes: a ViT-B/16 with P-Adapters of width 8 beside attention and MLP in all blocks and heads of 100
classes. Process memory is what a fresh process has in RAM, after minus before. Machine, commit and versions stand in
[pool.json](pool.json).

| what | measured | bar |
|---|---:|---:|"""


@dataclass(frozen=True)
class Line:
    """One line of the table."""

    what: str
    measured: float
    bar: str = ""

    def row(self) -> str:
        """As Markdown."""
        number = f"{self.measured:.2f}" if self.measured < 1000 else f"{self.measured:,.0f}"
        return table_row(self.what, number, self.bar)


def member(frozen: Backbone, tuners: Sequence[TunerConfig], seed: int) -> Member:
    """A member with values of its own; drawn anew, for what starts at zero too."""
    who = Member(frozen, num_classes=NUM_CLASSES, config=CONFIG, tuners=tuners)
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for parameter in who.parameters():
            parameter.normal_(std=0.02, generator=generator)
    return who


def throughput(frozen: Backbone, rounds: int, what: str, mix: Sequence[Sequence[TunerConfig]], bar: str) -> list[Line]:
    """64 tuners in one batch, and in a call each, to one tuner; the tuners are those of `mix` in turn."""
    pool = TunerPool(frozen)
    for place in range(NUM_ROWS):
        pool.load(str(place), member(frozen, mix[place % len(mix)], seed=place))
    images = torch.randint(0, 256, (NUM_ROWS, 3, 96, 96), generator=torch.Generator().manual_seed(0), dtype=torch.uint8)
    one, many, calls = in_turns(
        rounds,
        lambda: pool.predict(images, ["0"] * NUM_ROWS),
        lambda: pool.predict(images, pool.names),
        lambda: [pool.predict(images[place : place + 1], [name]) for place, name in enumerate(pool.names)],
    )
    return [
        Line(f"64 {what} in one batch, to one tuner's images/s", one / many, bar),
        Line(f"64 {what} in a call each, to one tuner's images/s", one / calls),
        Line(f"one tuner's images/s (the first of {what})", NUM_ROWS / one),
    ]


def memory(num_held: int) -> list[Line]:
    """What held tuners of a ViT-B/16 cost, counted and as a process has it."""
    lines = []
    for storage, count in (("fp32", num_held // 10), ("fp16", num_held)):
        with ProcessPoolExecutor(1, mp_context=get_context("spawn")) as fresh:
            counted, grown, backbone = fresh.submit(held_bytes, storage, count).result()
        lines += [
            Line(f"bytes of one more tuner, {storage}, counted", counted / count),
            Line(f"bytes of one more tuner, {storage}, process memory (over {count})", grown / count),
        ]
    return [
        *lines,
        Line(f"{num_held:,} tuners in fp16, counted, in backbones (fp32)", counted / backbone, "<3"),
        Line(f"{num_held:,} tuners in fp16, process memory, in backbones (fp32)", grown / backbone, "<3"),
    ]


def held_bytes(storage: Literal["fp32", "fp16"], count: int) -> tuple[int, int, int]:
    """Bytes of so many more tuners, counted and as this process has grown, and those of the backbone."""
    torch.set_num_threads(1)
    frozen = Backbone.load("vit_base_patch16_224", weights="none")
    pool = TunerPool(frozen, storage=storage)
    pool.load("first", member(frozen, [P_ADAPTER], seed=0))
    before = resident_bytes()
    for seed in range(1, count + 1):
        pool.load(str(seed), member(frozen, [P_ADAPTER], seed))
    grown = resident_bytes() - before
    counted = sum(pool.bytes.values()) - pool.bytes["first"]
    return counted, grown, sum(parameter.nbytes for parameter in frozen.trunk.model.parameters())


def main() -> None:
    """Measure and write."""
    parser = argparse.ArgumentParser()
    parser.add_argument("--rounds", type=int, default=15)
    parser.add_argument("--held", type=int, default=1000, help="tuners held at once; 10 or more")
    given = parser.parse_args()
    torch.set_num_threads(1)
    lines = memory(given.held)
    frozen = Backbone.load("vit_tiny_patch16_224", weights="none", img_size=96)
    others = [[TunerConfig(method=method)] for method in OTHERS]
    for what, mix, bar in (
        ("P-Adapters on attention and MLP of all blocks", [[P_ADAPTER]], "≥0.70"),
        ("LoRAs on q and v of all blocks", [[LORA]], "≥0.70"),
        *((each[0].method, [each], "") for each in others),
        ("tuners of six methods", [[P_ADAPTER], [LORA], *others], ""),
    ):
        lines += throughput(frozen, given.rounds, what, mix, bar)
    for line in lines:
        print(line.row(), flush=True)
    page = "\n".join([PAGE.format(rounds=given.rounds), *(line.row() for line in lines), ""])
    values = {**vars(given), "rows": [asdict(line) for line in lines]}
    write_result(RESULT / "pool.json", "python benchmarks/pool.py", page, **values)


if __name__ == "__main__":
    main()
