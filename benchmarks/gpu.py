"""The engine on a GPU: the share of its matmul peak that a cohort's step reaches, and members together beside apart.

    python benchmarks/gpu.py [peak] [members] [cache] [--model vit_base_patch16_224] [--img-size 224] [--batch-size 32]
                             [--rounds 10] [--device cuda] [--to docs/results/gpu]

Needs torch and timm, and nothing else that the project uses. Weights and images are noise. `--device cpu` shows that it
runs; its numbers say nothing of a GPU. Writes steps.{md,json}.
"""

import argparse
import tempfile
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path

import torch
from cohorts import (
    Ratio,
    Scene,
    adapter,
    adapters_with_cache,
    all_layers,
    batch,
    member,
    one_more_side,
    sides_with_cache,
    stepping,
)
from result_file import write_result
from timing import in_turns, seconds_of

from utuning.backbone import Backbone
from utuning.costs import step_flops

RESULT = Path(__file__).parent.parent / "docs" / "results" / "gpu"
COHORTS = (1, 8, 24)
PAGE = """# Training together on a GPU, step by step

`python benchmarks/gpu.py`: {model} at {img_size} px with random weights, batch {batch_size}, precision as on {device}:
bf16 on a GPU; medians of {rounds} steps of each side, taken in turns. Allowed is the ratio of FLOPs, counted. The peak
is that of a matrix product of {size} x {size} in bf16, the best of a few: {peak:.1f} TFLOP/s. Device, commit and
versions stand in [steps.json](steps.json).

| what | measured | allowed by FLOPs | bar |
|---|---:|---:|---:|"""


def peak_flops(device: torch.device, size: int) -> float:
    """FLOP/s of a large matrix product in bf16, the best of a few."""
    a, b = (torch.randn(size, size, device=device, dtype=torch.bfloat16) for _ in range(2))
    seconds_of(lambda: a @ b)
    return float(2 * size**3 / min(seconds_of(lambda: a @ b) for _ in range(8)))


def share_of_peak(scene: Scene, num_members: int, rounds: int, peak: float) -> Ratio:
    """What a cohort's step reaches of the peak: adapters in all blocks of all members."""
    members = [member(scene.frozen, adapter("all"), seed=n) for n in range(num_members)]
    flops = step_flops(scene.frozen, members, num_images=len(scene.data.labels))
    (seconds,) = in_turns(rounds, stepping(scene.frozen, members, scene.data))
    title = f"share of the peak, adapters in all blocks, members: {num_members}"
    return Ratio(title, flops / seconds / peak, 1.0, "≥0.45")


def measured(scene: Scene, asked: Sequence[str], rounds: int, peak: float) -> list[Ratio]:
    """The rows that are asked for."""
    rows = []
    if "peak" in asked:
        rows += [share_of_peak(scene, count, rounds, peak) for count in COHORTS]
    if "members" in asked:
        rows.append(all_layers(scene, rounds, "≥1.3"))
    if "cache" in asked:
        with tempfile.TemporaryDirectory() as folder:
            rows += [
                adapters_with_cache(scene, rounds, Path(folder) / "adapters"),
                sides_with_cache(scene, rounds, Path(folder) / "sides"),
                one_more_side(scene, rounds),
            ]
    return rows


def main() -> None:
    """Measure and write."""
    parser = argparse.ArgumentParser()
    parser.add_argument("what", nargs="*", help="peak, members, cache; all if left out")
    parser.add_argument("--model", default="vit_base_patch16_224")
    parser.add_argument("--img-size", type=int, default=224)
    parser.add_argument("--batch-size", type=int, default=32)
    parser.add_argument("--rounds", type=int, default=10)
    parser.add_argument("--device", type=torch.device, default="cuda")
    parser.add_argument("--to", type=Path, default=RESULT)
    options = parser.parse_args()
    on_gpu = options.device.type == "cuda"
    if on_gpu and not torch.cuda.is_available():
        parser.error("no GPU is seen by torch; --device cpu shows that the benchmark runs")
    size = 8192 if on_gpu else 256
    peak = peak_flops(options.device, size)
    frozen = Backbone.load(options.model, weights="none", img_size=options.img_size).to(options.device)
    scene = Scene(frozen, batch(size=options.batch_size, img_size=options.img_size).to(options.device))
    rows = measured(scene, options.what or ["peak", "members", "cache"], options.rounds, peak)
    device = torch.cuda.get_device_name(options.device) if on_gpu else "a CPU"
    settings = {"model": options.model, "img_size": options.img_size, "batch_size": options.batch_size}
    facts = {**settings, "rounds": options.rounds, "device": device}
    page = "\n".join([PAGE.format(**facts, size=size, peak=peak / 1e12), *(row.line() for row in rows), ""])
    print(page)
    values = {**facts, "peak": peak, "rows": list(map(asdict, rows))}
    write_result(options.to / "steps.json", "python benchmarks/gpu.py", page, **values)


if __name__ == "__main__":
    main()
