"""Every method on the embedded default: the same epochs for all, three learning rates each, three seeds.

    python benchmarks/methods.py [--epochs 4] [--processes 2]

For each method the learning rate is chosen by val accuracy with seed 0; the chosen one is trained with seeds 1 and 2
too, and only then is test read. Step time is the median of solo steps, as a ratio to the linear probe's in the same
process; kept bytes are what one solo step of 32 images saves for its backward pass.
Writes docs/results/methods/demo.{md,json}. Drawn demo data: a check of the methods against each other in one small
setting, not evidence about any of them in general.
"""

import argparse
import multiprocessing
import tempfile
import time
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from statistics import fmean, median
from typing import Any

import torch
from measuring import accuracy, loader, saved_bytes, train_together, write_result

from pipelines.leaderboard import half_width
from pipelines.plan import Prepared, prepare_search
from pipelines.workspace import Workspace
from search_spaces.loader import load_space
from search_spaces.space import tuner_config
from utuning.cohort import Cohort
from utuning.configs import TrialConfig
from utuning.member import Member
from utuning.tuners import tuner_row

RESULT = Path(__file__).parent.parent / "docs" / "results" / "methods"
SEEDS = (0, 1, 2)
TIMED_STEPS = 15
TUNERS_LR, PROMPTS_LR, HEADS_LR, WEIGHTS_LR = (
    (2e-3, 5e-3, 1.3e-2),
    (1e-2, 3e-2, 1e-1),
    (1e-2, 3e-2, 1e-1),
    (3e-4, 1e-3, 3e-3),
)
Tuners = tuple[dict[str, Any], ...]
PAGE = """# Every method on the demo data

Drawn demo data: the methods against each other in one small setting, no evidence about any of them in general.
`python benchmarks/methods.py`: {num_epochs} epochs, batch 32, AdamW; three learning rates a method, chosen on val with
seed 0; then seeds 0, 1, 2, and test read once for each. 95 % confidence intervals (Student t, 3 seeds). Step time is a
solo step's, as a ratio to the linear probe's (medians of steps in turns); kept MB is what a solo step of 32 images
saves for its backward pass. A * marks a rate at the edge of its grid, where a wider grid might do better.

| method | configuration | trainable, without head | val % | test % | step time | kept MB |
|---|---|---:|---:|---:|---:|---:|"""


@dataclass(frozen=True)
class Entry:
    """One row of the benchmark: its title, its tuners as a space writes them, its learning rates."""

    title: str
    tuners: Tuners
    rates: tuple[float, ...]


def _adapter(*ops: str) -> dict[str, Any]:
    return {"method": "p_adapter", "ops": list(ops), "bottleneck_dim": 16}


ENTRIES = (
    Entry("linear probe", (), HEADS_LR),
    Entry("MLP head", ({"method": "mlp_head"},), TUNERS_LR),
    Entry("full fine-tuning", ({"method": "full"},), WEIGHTS_LR),
    Entry("partial-1", ({"method": "partial"},), WEIGHTS_LR),
    Entry("BitFit", ({"method": "bitfit"},), TUNERS_LR),
    Entry("adapter (intermediate)", ({"method": "adapter", "bottleneck_dim": 16},), TUNERS_LR),
    Entry("adapter (Houlsby)", ({"method": "adapter_houlsby", "bottleneck_dim": 16},), TUNERS_LR),
    Entry("adapter (Pfeiffer)", ({"method": "adapter_pfeiffer", "bottleneck_dim": 16},), TUNERS_LR),
    Entry("Adapter+", ({"method": "adapter_plus", "bottleneck_dim": 16},), TUNERS_LR),
    Entry("prefix tuning", ({"method": "prefix_tuning", "num_tokens": 10},), PROMPTS_LR),
    Entry("VPT-shallow", ({"method": "vpt_shallow", "num_tokens": 10},), PROMPTS_LR),
    Entry("VPT-deep", ({"method": "vpt_deep", "num_tokens": 10},), PROMPTS_LR),
    Entry("P-Adapter, MHA", (_adapter("attn"),), TUNERS_LR),
    Entry("P-Adapter, FFN", (_adapter("mlp"),), TUNERS_LR),
    Entry("P-Adapter, Block", (_adapter("block"),), TUNERS_LR),
    Entry("P-Prefix, MHA", ({"method": "p_prefix", "ops": ["attn"], "num_tokens": 10},), PROMPTS_LR),
    Entry("P-Prompt, MHA", ({"method": "p_prompt", "ops": ["attn"], "num_tokens": 10},), PROMPTS_LR),
    Entry("dual: P-Adapter on MHA and FFN", (_adapter("attn", "mlp"),), TUNERS_LR),
    Entry(
        "tri: P-Adapter on MHA and FFN, P-Prefix on Block",
        (_adapter("attn", "mlp"), {"method": "p_prefix", "ops": ["block"], "num_tokens": 10}),
        TUNERS_LR,
    ),
    Entry("tri: P-Adapter on MHA, FFN, Block", (_adapter("attn", "mlp", "block"),), TUNERS_LR),
    Entry("LoRA (q, v)", ({"method": "lora", "lora_rank": 8},), TUNERS_LR),
    Entry("SSF", ({"method": "ssf"},), TUNERS_LR),
    Entry("AdaptFormer", ({"method": "adaptformer", "bottleneck_dim": 16},), TUNERS_LR),
    Entry("Convpass", ({"method": "convpass"},), TUNERS_LR),
    Entry("RepAdapter", ({"method": "rep_adapter"},), TUNERS_LR),
    Entry("MAM", ({"method": "mam", "num_tokens": 10, "bottleneck_dim": 16},), TUNERS_LR),
    Entry("UniPT (port)", ({"method": "unipt"},), TUNERS_LR),
    Entry("ladder side-tuning", ({"method": "ladder"},), TUNERS_LR),
    Entry("Res-Tuning-Bypass", ({"method": "bypass", "bottleneck_dim": 16},), TUNERS_LR),
    Entry("DTL", ({"method": "dtl"},), TUNERS_LR),
    Entry("instance-wise prompt (stand-in)", ({"method": "instance_prompt"},), PROMPTS_LR),
    Entry("proxy-anchor head (stand-in)", ({"method": "proxy_head"},), TUNERS_LR),
)


def trial_of(ready: Prepared, entry: Entry, lr: float, seed: int) -> TrialConfig:
    """The trial of one entry; everything but tuners, rate and seed is the demo space's."""
    base = ready.space.baseline_trials(ready.facts)[0]
    tuners = tuple(tuner_config(tuner) for tuner in entry.tuners)
    return replace(base, tuners=tuners, train=replace(base.train, lr=lr, seed=seed))


def measure(ready: Prepared, entry: Entry) -> dict[str, Any]:
    """Choose the rate with seed 0 on val, train the other seeds, read test once for each seed."""
    tried = [trial_of(ready, entry, lr, SEEDS[0]) for lr in entry.rates]
    members = train_together(ready, tried)
    vals = [accuracy(ready, member, "val") for member in members]
    best = max(range(len(tried)), key=vals.__getitem__)
    chosen = [members[best]]
    for seed in SEEDS[1:]:
        chosen += train_together(ready, [trial_of(ready, entry, entry.rates[best], seed)])
    tests = [accuracy(ready, member, "test") for member in chosen]
    return {
        "title": entry.title,
        "configuration": tried[best].label,
        "methods": [tuner["method"] for tuner in entry.tuners],
        "stand_in": any(tuner_row(tuner["method"]).stand_in for tuner in entry.tuners),
        "lr": entry.rates[best],
        "lr_at_edge_of_grid": best in (0, len(tried) - 1),
        "trainable_params": sum(chosen[0].num_parameters().values()),
        "tuner_params": chosen[0].num_parameters()["tuners"] + chosen[0].num_parameters()["backbone"],
        "val": [accuracy(ready, member, "val") for member in chosen],
        "test": tests,
        "test_mean": fmean(tests),
        "test_ci": half_width(tests),
        **cost(ready, entry),
    }


def cost(ready: Prepared, entry: Entry) -> dict[str, float]:
    """A solo step's time as a ratio to the linear probe's, steps taken in turns, and the bytes it keeps."""
    batch = next(iter(loader(ready, "train", 32).epoch(0)))
    solo = [_fresh(ready, each) for each in (entry, ENTRIES[0])]
    cohorts = [Cohort(ready.backbone, [member]) for member in solo]
    seconds: list[list[float]] = [[], []]
    for _ in range(TIMED_STEPS):
        for place, cohort in enumerate(cohorts):
            started = time.perf_counter()
            cohort.step(batch)
            seconds[place].append(time.perf_counter() - started)
    kept = saved_bytes(ready.backbone, _fresh(ready, entry), batch)
    return {"step_time_to_linear": median(seconds[0]) / median(seconds[1]), "kept_mb": kept / 1e6}


def markdown(rows: Sequence[dict[str, Any]], num_epochs: int) -> str:
    """The table as a page."""
    lines = [PAGE.format(num_epochs=num_epochs)]
    for row in rows:
        star = "*" if row["lr_at_edge_of_grid"] else ""
        test = f"{100 * row['test_mean']:.1f} ± {100 * row['test_ci']:.1f}"
        numbers = (
            f"{row['tuner_params']:,} | {100 * fmean(row['val']):.1f} | {test} | {row['step_time_to_linear']:.2f}x"
        )
        lines.append(f"| {row['title']} | {row['configuration']}{star} | {numbers} | {row['kept_mb']:.1f} |")
    if len(rows) < len(ENTRIES):
        lines += ["", f"Not all: {len(rows)} of {len(ENTRIES)} methods are measured so far."]
    return "\n".join([*lines, ""])


def main() -> None:
    """Measure every entry, two at a time, and write."""
    parser = argparse.ArgumentParser()
    parser.add_argument("--epochs", type=int, default=4)
    parser.add_argument("--processes", type=int, default=2)
    options = parser.parse_args()
    rows: list[dict[str, Any]] = []
    with tempfile.TemporaryDirectory() as folder:
        _prepare(Path(folder), options.epochs)
        context = multiprocessing.get_context("spawn")
        with context.Pool(options.processes, _prepare, (Path(folder), options.epochs)) as pool:
            for row in pool.imap(_measure, range(len(ENTRIES))):
                print(f"{row['title']}: {row['configuration']}  test {100 * row['test_mean']:.1f} %", flush=True)
                rows.append(row)
                write(rows, options.epochs)  # it takes long: what is measured is kept


def write(rows: Sequence[dict[str, Any]], num_epochs: int) -> None:
    """Write both result files."""
    RESULT.mkdir(parents=True, exist_ok=True)
    (RESULT / "demo.md").write_text(markdown(rows, num_epochs))
    write_result(RESULT / "demo.json", "python benchmarks/methods.py", seeds=SEEDS, epochs=num_epochs, rows=rows)


_ready: Prepared | None = None


def _prepare(folder: Path, num_epochs: int) -> None:
    """What each process needs once."""
    global _ready
    torch.set_num_threads(1)
    space = load_space("demo", [f"train.epochs={num_epochs}", "train.batch_size=32"])
    _ready = prepare_search(space, Workspace(folder))


def _measure(place: int) -> dict[str, Any]:
    assert _ready is not None
    return measure(_ready, ENTRIES[place])


def _fresh(ready: Prepared, entry: Entry) -> Member:
    trial = trial_of(ready, entry, entry.rates[0], 0)
    return Member(ready.backbone, num_classes=trial.num_classes, config=trial.train, tuners=trial.tuners)


if __name__ == "__main__":
    main()
