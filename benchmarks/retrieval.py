"""Recall@1 on classes that no tuner ever saw: the first half of the classes trains, the other half is searched.

    python benchmarks/retrieval.py demo
    python benchmarks/retrieval.py grocery dataset.path=FOLDER backbone.weights=FILE

The test images of the unseen classes are embedded, and each is a query among all others: by the frozen backbone's
features, by those with P-Adapters and a linear head, and by P-Adapters with the proxy-anchor head (a stand-in, see
docs/methods/proxy_head.md). Fixed settings, nothing is chosen on what is measured; three seeds.
Writes docs/results/retrieval/{demo,grocery}.{md,json}.
"""

import argparse
import tempfile
from dataclasses import replace
from pathlib import Path
from statistics import fmean
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc
import torch
from measuring import percent
from result_file import table_row, write_result

from pipelines.planning.plan import Prepared, prepare_search
from pipelines.results.leaderboard import half_width
from pipelines.workspace import Workspace
from search_spaces.loader import load_space
from utuning.cohort import Cohort
from utuning.configs import TrainConfig, TunerConfig
from utuning.data.loader import Loader
from utuning.data.shards import read_split
from utuning.member import Member
from utuning.retrieval import embeddings, recall_at_k

RESULT = Path(__file__).parent.parent / "docs" / "results" / "retrieval"
SEEDS = (0, 1, 2)
ADAPTER = TunerConfig(method="p_adapter", ops=("attn", "mlp"), depths="last:4", settings={"bottleneck_dim": 16})
ROWS: dict[str, tuple[TunerConfig, ...]] = {
    "P-Adapter on MHA and FFN, linear head": (ADAPTER,),
    "P-Adapter on MHA and FFN, proxy-anchor head (stand-in)": (ADAPTER, TunerConfig(method="proxy_head")),
}
PAGE = """# Recall@1 on unseen classes: {name}

`{command}`: {seen} classes train ({epochs} epochs, batch 32, AdamW, lr 5e-3); the {count:,} test images of the {unseen}
others are queries, each among all the others. 95 % confidence intervals (Student t, 3 seeds).

| embedding | recall@1 % |
|---|---:|
"""


def loader(ready: Prepared, table: pa.Table, seed: int = 0, *, train: bool) -> Loader:
    """Batches of some rows."""
    recipe = ready.space.recipe
    return Loader(table, ready.backbone.preprocessing, global_batch_size=32, seed=seed, recipe=recipe, train=train)


def measure(ready: Prepared, epochs: int, num_seen: int) -> tuple[dict[str, list[float]], int]:
    """Recall of every row and seed, and the number of queries."""
    seen, unseen = (
        table.filter(where(table["label"], num_seen))
        for table, where in (
            (read_split(ready.dataset, "train"), pc.less),
            (read_split(ready.dataset, "test"), pc.greater_equal),
        )
    )
    found: dict[str, list[float]] = {"the frozen backbone's features": []}
    for seed in SEEDS:
        batches = loader(ready, seen, seed, train=True)
        config = TrainConfig(lr=5e-3, epochs=epochs, batch_size=32, seed=seed)
        members = {
            title: Member(ready.backbone, num_classes=num_seen, config=config, tuners=t, steps_per_epoch=len(batches))
            for title, t in ROWS.items()
        }
        cohort = Cohort(ready.backbone, list(members.values()))
        for epoch in range(epochs):
            cohort.train_epoch(batches.epoch(epoch))
        plain = Member(ready.backbone, num_classes=num_seen, config=replace(config, seed=seed))
        for title, member in {"the frozen backbone's features": plain, **members}.items():
            embedded = embeddings(ready.backbone, member, loader(ready, unseen, train=False).epoch(0))
            found.setdefault(title, []).append(recall_at_k(*embedded))
    return found, unseen.num_rows


def main() -> None:
    """Measure and write."""
    parser = argparse.ArgumentParser()
    parser.add_argument("space", choices=("demo", "grocery"))
    parser.add_argument("overrides", nargs="*")
    parser.add_argument("--epochs", type=int, default=4)
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        ready = prepare_search(load_space(options.space, options.overrides), Workspace(Path(folder)))
        num_seen = ready.facts.num_classes // 2
        found, count = measure(ready, options.epochs, num_seen)
    write(
        options.space,
        found,
        epochs=options.epochs,
        seen=num_seen,
        unseen=ready.facts.num_classes - num_seen,
        count=count,
    )


def write(name: str, found: dict[str, list[float]], **facts: Any) -> None:
    """Write both result files."""
    paths = "" if name == "demo" else " dataset.path=FOLDER backbone.weights=FILE"
    command = f"python benchmarks/retrieval.py {name}{paths}"
    rows = [table_row(title, percent(fmean(r), half_width(r))) for title, r in found.items()]
    page = PAGE.format(name=name, command=command, **facts) + "\n".join([*rows, ""])
    print(page)
    write_result(RESULT / f"{name}.json", command, page, seeds=SEEDS, recall_at_1=found, **facts)


if __name__ == "__main__":
    torch.set_num_threads(2)
    main()
