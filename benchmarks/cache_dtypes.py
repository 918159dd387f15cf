"""What it costs in accuracy to keep frozen states in half precision.

    python benchmarks/cache_dtypes.py

The same trials of the demo data are trained on cached states in fp32, fp16 and bf16, each image in two fixed crops,
three seeds. Scored on val, with val's states cached in the same type. Drawn demo data.
Writes docs/results/cohorts/cache_dtypes.{md,json}.
"""

import tempfile
from pathlib import Path
from statistics import fmean
from typing import Any

import torch
from measuring import loader
from result_file import table_row, write_result

from pipelines.planning.plan import Prepared, prepare_search
from pipelines.results.leaderboard import half_width
from pipelines.workspace import Workspace
from search_spaces.loader import load_space
from utuning.cohort import Cohort
from utuning.configs import TrainConfig, TunerConfig
from utuning.member import Member
from utuning.prefix import CACHE_DTYPES, Prefix, state_shapes
from utuning.prefix_cache import PrefixCache

RESULT = Path(__file__).parent.parent / "docs" / "results" / "cohorts"
SEEDS, NUM_VIEWS, EPOCHS = (0, 1, 2), 2, 4
BUDGET_BYTES = 10**10
ROWS: dict[str, tuple[float, tuple[TunerConfig, ...]]] = {
    "linear probe": (3e-2, ()),
    "UniPT": (1e-2, (TunerConfig(method="unipt"),)),
    "ladder": (1e-2, (TunerConfig(method="ladder"),)),
    "P-Adapter in the last block": (
        1e-2,
        (TunerConfig(method="p_adapter", ops=("attn", "mlp"), depths="last:1", settings={"bottleneck_dim": 16}),),
    ),
}
PAGE = """# Frozen states kept in half precision

`python benchmarks/cache_dtypes.py`: drawn demo data, {epochs} epochs on {views} cached crops of each image, batch 32,
seeds 0 to 2; val accuracy in %, and in brackets the mean change against fp32 over the seeds with its 95 % confidence
interval (Student t, paired). Machine, commit and versions stand in [cache_dtypes.json](cache_dtypes.json).

| trial | fp32 | fp16 | bf16 |
|---|---:|---:|---:|
"""


def measure(ready: Prepared, seed: int, dtype: str, folder: Path) -> list[float]:
    """Val accuracy of each row's member, trained and scored on states that are kept in `dtype`."""
    cache, shapes = PrefixCache(folder, BUDGET_BYTES), state_shapes(ready.backbone)
    loaders = {split: loader(ready, split, 32, seed, NUM_VIEWS) for split in ("train", "val")}
    members = [
        Member(
            ready.backbone,
            num_classes=ready.facts.num_classes,
            config=TrainConfig(lr=lr, epochs=EPOCHS, batch_size=32, seed=seed),
            tuners=tuners,
            steps_per_epoch=len(loaders["train"]),
        )
        for lr, tuners in ROWS.values()
    ]
    useful = {}
    for split, batches in loaders.items():
        num_views = NUM_VIEWS if split == "train" else 1
        facts = {"split": split, "seed": seed}
        prefix = Prefix(
            cache, shapes, num_rows=batches.num_examples, num_views=num_views, dtype=CACHE_DTYPES[dtype], facts=facts
        )
        useful[split] = prefix.useful(ready.backbone, members, BUDGET_BYTES // 2)
        # A pass over each view fills the cache, so that whatever is measured reads it.
        for view in range(num_views):
            Cohort(ready.backbone, members).evaluate(batches.epoch(view, useful[split]))
    cohort = Cohort(ready.backbone, members)
    for epoch in range(EPOCHS):
        cohort.train_epoch(loaders["train"].epoch(epoch, useful["train"]))
    return [score.accuracy for score in cohort.evaluate(loaders["val"].epoch(0, useful["val"]))]


def cell(accuracies: list[float], exact: list[float]) -> str:
    """A type's accuracy, and how it differs from fp32's."""
    text = f"{100 * fmean(accuracies):.1f}"
    if accuracies is exact:
        return text
    changes = [100 * (mine - theirs) for mine, theirs in zip(accuracies, exact, strict=True)]
    return f"{text} ({fmean(changes):+.1f} ± {half_width(changes):.1f})"


def main() -> None:
    """Measure and write."""
    torch.set_num_threads(1)
    found: dict[str, dict[str, list[float]]] = {title: {dtype: [] for dtype in CACHE_DTYPES} for title in ROWS}
    with tempfile.TemporaryDirectory() as home:
        ready = prepare_search(load_space("demo"), Workspace(Path(home)))
        for seed in SEEDS:
            for dtype in CACHE_DTYPES:
                accuracies = measure(ready, seed, dtype, Path(home) / f"states-{seed}-{dtype}")
                print(seed, dtype, accuracies, flush=True)
                for title, accuracy in zip(ROWS, accuracies, strict=True):
                    found[title][dtype].append(accuracy)
    write(found)


def write(found: dict[str, dict[str, list[float]]]) -> None:
    """Write both result files."""
    lines = [
        table_row(title, *(cell(values, by_dtype["fp32"]) for values in by_dtype.values()))
        for title, by_dtype in found.items()
    ]
    page = PAGE.format(epochs=EPOCHS, views=NUM_VIEWS) + "\n".join([*lines, ""])
    print(page)
    facts: dict[str, Any] = {"seeds": SEEDS, "epochs": EPOCHS, "views": NUM_VIEWS, "val_accuracy": found}
    write_result(RESULT / "cache_dtypes.json", "python benchmarks/cache_dtypes.py", page, **facts)


if __name__ == "__main__":
    main()
