"""Is there something to find in the demo? Linear, U-Tuning and full fine-tuning over three seeds, same epochs for all.

    python benchmarks/demo_table.py

The U-Tuning configurations are the demo space's own random trials; linear and full fine-tuning have two learning rates
each. Each family's configuration is chosen by its mean val accuracy over the seeds; only then is test read, for the
chosen three. Members of one seed train together as a cohort (full fine-tuning alone).
Writes docs/results/demo/three_seeds.{md,json}.
"""

import json
import tempfile
import time
from collections.abc import Sequence
from dataclasses import asdict, replace
from pathlib import Path
from statistics import fmean
from typing import Any

import torch

from pipelines import provenance
from pipelines.leaderboard import half_width
from pipelines.plan import Prepared, prepare_search
from pipelines.workspace import Workspace
from search_spaces.loader import load_space
from utuning.cohort import Cohort
from utuning.configs import TrialConfig
from utuning.data.loader import Loader
from utuning.data.shards import read_split
from utuning.member import Member

SEEDS = (0, 1, 2)
LEARNING_RATES = {"linear": (1e-2, 3e-2), "full": (5e-4, 1e-3)}
RESULT = Path(__file__).parent.parent / "docs" / "results" / "demo"
Trained = dict[str, tuple[TrialConfig, Member]]


def candidates(ready: Prepared) -> list[TrialConfig]:
    """Every configuration of the three families, with seed 0."""
    fixed = [
        replace(trial, train=replace(trial.train, lr=lr))
        for trial in ready.space.baseline_trials(ready.facts)
        for lr in LEARNING_RATES[trial.method]
    ]
    return fixed + ready.space.random_trials(ready.facts)


def train_seed(ready: Prepared, trials: Sequence[TrialConfig], seed: int) -> Trained:
    """Train all configurations with one seed; those that leave the backbone frozen go together."""
    seeded = [replace(trial, train=replace(trial.train, seed=seed)) for trial in trials]
    loader = _loader(ready, "train", seeded[0].train.batch_size, seed)
    trained: Trained = {}
    for group in [[t for t in seeded if t.method != "full"], *([t] for t in seeded if t.method == "full")]:
        members = [
            Member(
                ready.backbone,
                num_classes=t.num_classes,
                config=t.train,
                tuners=t.tuners,
                steps_per_epoch=len(loader),
            )
            for t in group
        ]
        cohort = Cohort(ready.backbone, members)
        for epoch in range(group[0].train.epochs):
            cohort.train_epoch(loader.epoch(epoch))
        trained |= {t.config_id: (t, member) for t, member in zip(group, members, strict=True)}
    return trained


def accuracy(ready: Prepared, member: Member, split: str) -> float:
    """Top-1 accuracy of one member on a split."""
    return Cohort(ready.backbone, [member]).evaluate(_loader(ready, split, 64, 0, train=False).epoch(0))[0].accuracy


def rows(ready: Prepared, by_seed: Sequence[Trained]) -> list[dict[str, Any]]:
    """For each family the configuration with the best mean val, and its test accuracy: the one reading of test."""
    found = []
    for family in ("linear", "p_adapter", "full"):
        ids = [key for key, (trial, _) in by_seed[0].items() if trial.method == family]
        vals = {key: [accuracy(ready, trained[key][1], "val") for trained in by_seed] for key in ids}
        chosen = max(ids, key=lambda key: fmean(vals[key]))
        members = [trained[chosen][1] for trained in by_seed]
        tests = [accuracy(ready, member, "test") for member in members]
        found.append(
            {
                "family": family,
                "configuration": by_seed[0][chosen][0].label,
                "tried": len(ids),
                "trainable_params": sum(members[0].num_parameters().values()),
                "val": vals[chosen],
                "test": tests,
                "test_mean": fmean(tests),
                "test_ci": half_width(tests),
            }
        )
    return found


def markdown(table: Sequence[dict[str, Any]], num_epochs: int, seconds: float) -> str:
    """The table as a page."""
    lines = [
        "# Demo data: linear probe, best U-Tuning, full fine-tuning",
        "",
        f"Drawn demo data, not a benchmark. `python benchmarks/demo_table.py`: {num_epochs} epochs, seeds 0, 1, 2;",
        "configuration chosen on val (mean over seeds), test read once for the chosen ones; 95 % confidence intervals",
        "(Student t, 3 seeds).",
        "",
        "| family | chosen configuration | tried | trainable | val % | test % |",
        "|---|---|---:|---:|---:|---:|",
    ]
    for row in table:
        lines.append(
            f"| {row['family']} | {row['configuration']} | {row['tried']} | {row['trainable_params']:,} "
            f"| {100 * fmean(row['val']):.1f} | {100 * row['test_mean']:.1f} ± {100 * row['test_ci']:.1f} |"
        )
    gap = 100 * (table[1]["test_mean"] - table[0]["test_mean"])
    return "\n".join(
        [*lines, "", f"Best U-Tuning minus linear probe on test: {gap:+.1f} points. Took {seconds:.0f} s.", ""]
    )


def main() -> None:
    """Train, choose, measure, write."""
    torch.set_num_threads(2)
    started = time.perf_counter()
    with tempfile.TemporaryDirectory() as folder:
        ready = prepare_search(load_space("demo"), Workspace(Path(folder)))
        trials = candidates(ready)
        by_seed = []
        for seed in SEEDS:
            by_seed.append(train_seed(ready, trials, seed))
            print(f"seed {seed}: {time.perf_counter() - started:.0f} s", flush=True)
        table = rows(ready, by_seed)
        facts = asdict(ready.facts)
    page = markdown(table, trials[0].train.epochs, time.perf_counter() - started)
    print(page)
    RESULT.mkdir(parents=True, exist_ok=True)
    (RESULT / "three_seeds.md").write_text(page)
    source = {"commit": provenance.commit(), "versions": provenance.versions(), "machine": provenance.machine()}
    document = {"command": "python benchmarks/demo_table.py", "seeds": SEEDS, "rows": table, "facts": facts, **source}
    (RESULT / "three_seeds.json").write_text(json.dumps(document, indent=2) + "\n")


def _loader(ready: Prepared, split: str, batch_size: int, seed: int, train: bool = True) -> Loader:
    table = read_split(ready.dataset, split)
    return Loader(
        table,
        ready.backbone.preprocessing,
        global_batch_size=batch_size,
        seed=seed,
        recipe=ready.space.recipe,
        train=train,
    )


if __name__ == "__main__":
    main()
