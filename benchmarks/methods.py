"""The methods against each other: equal epochs for all, a small grid of learning rates each, three seeds.

    python benchmarks/methods.py demo
    python benchmarks/methods.py grocery dataset.path=FOLDER backbone.weights=FILE

For each method the learning rate is chosen by val accuracy with seed 0; the chosen one is trained with seeds 1 and 2
too, and only then is test read. Step time is the median of solo steps, as a ratio to the linear probe's in the same
process; kept bytes are what one solo step of 32 images saves for its backward pass.
Writes docs/results/methods/{demo,grocery}.{md,json}. `demo`: every method, on drawn data: a check of the methods
against each other in one small setting, not evidence about any of them in general. `grocery`: six methods on real
photos and a real pretrained ViT.
"""

import argparse
import multiprocessing
import tempfile
from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from statistics import fmean
from typing import Any

import torch
from entries import DEMO, GROCERY, LINEAR, Entry
from measuring import accuracies, loader, percent, saved_bytes, tested, train_together
from result_file import table_row, write_result
from timing import in_turns

from pipelines.planning.plan import Prepared, prepare_search
from pipelines.workspace import Workspace
from search_spaces.loader import load_space
from search_spaces.space import tuner_config
from utuning.cohort import Cohort
from utuning.configs import TrialConfig
from utuning.member import Member
from utuning.tuners import tuner_row

RESULT = Path(__file__).parent.parent / "docs" / "results" / "methods"
SEEDS = (0, 1, 2)
EPOCHS = 4
TIMED_STEPS = 15
PAGE = """# {title}

{about}
`{command}`: {num_epochs} epochs, batch 32, AdamW; {num_rates} learning rates a method, chosen on val with
seed 0; then seeds 0, 1, 2, and test read once for each. 95 % confidence intervals (Student t, 3 seeds). Step time is a
solo step's, as a ratio to the linear probe's (medians of steps in turns); kept MB is what a solo step of 32 images
saves for its backward pass. A * marks a rate at the edge of its grid, where a wider grid might do better.

| method | configuration | trainable, without head | val % | test % | step time | kept MB |
|---|---|---:|---:|---:|---:|---:|"""


@dataclass(frozen=True)
class Suite:
    """One comparison: its entries, how many of them train as one cohort, and what its page says."""

    entries: Sequence[Entry]
    together: int
    title: str
    about: str


SUITES = {
    "demo": Suite(
        DEMO,
        together=1,
        title="Every method on the demo data",
        about="Drawn demo data: the methods against each other in one small setting, no evidence about any of them in "
        "general.",
    ),
    "grocery": Suite(
        GROCERY,
        together=len(GROCERY),
        title="Six methods on the grocery photos",
        about="81 fine classes of groceries photographed in shops, a real pretrained ViT-S/14 at 112 px, frozen; "
        "tuners inside the backbone stand in its last four blocks. Real photos, one data set.",
    ),
}


def trial_of(ready: Prepared, entry: Entry, lr: float, seed: int) -> TrialConfig:
    """The trial of one entry; everything but tuners, rate and seed is the space's."""
    base = ready.space.baseline_trials(ready.facts)[0]
    tuners = tuple(tuner_config(tuner) for tuner in entry.tuners)
    return replace(base, tuners=tuners, train=replace(base.train, lr=lr, seed=seed))


def measure(ready: Prepared, entries: Sequence[Entry]) -> list[dict[str, Any]]:
    """For each entry choose the rate with seed 0 on val, train the other seeds, read test once for each seed."""
    rates, first = _best_rates(ready, entries)
    by_seed = [first]
    for seed in SEEDS[1:]:
        trials = [trial_of(ready, entry, lr, seed) for entry, lr in zip(entries, rates, strict=True)]
        by_seed.append(train_together(ready, trials))
    vals, tests = ([accuracies(ready, members, split) for members in by_seed] for split in ("val", "test"))
    return [
        _row(ready, entry, lr, member, [scores[at] for scores in vals], [scores[at] for scores in tests])
        for at, (entry, lr, member) in enumerate(zip(entries, rates, first, strict=True))
    ]


def _best_rates(ready: Prepared, entries: Sequence[Entry]) -> tuple[list[float], list[Member]]:
    """The rate of each entry that does best on val with seed 0, and the member that was trained with it."""
    tried = [(entry, lr) for entry in entries for lr in entry.rates]
    members = train_together(ready, [trial_of(ready, entry, lr, SEEDS[0]) for entry, lr in tried])
    vals = accuracies(ready, members, "val")
    places = [[at for at, (entry, _) in enumerate(tried) if entry is each] for each in entries]
    best = [max(own, key=vals.__getitem__) for own in places]
    return [tried[at][1] for at in best], [members[at] for at in best]


def _row(
    ready: Prepared, entry: Entry, lr: float, member: Member, vals: Sequence[float], tests: Sequence[float]
) -> dict[str, Any]:
    parameters = member.num_parameters()
    return {
        "title": entry.title,
        "configuration": trial_of(ready, entry, lr, SEEDS[0]).label,
        "methods": [tuner["method"] for tuner in entry.tuners],
        "stand_in": any(tuner_row(tuner["method"]).stand_in for tuner in entry.tuners),
        "lr": lr,
        "lr_at_edge_of_grid": lr in (min(entry.rates), max(entry.rates)),
        "trainable_params": sum(parameters.values()),
        "tuner_params": parameters["tuners"] + parameters["backbone"],
        "val": vals,
        **tested(tests),
        **cost(ready, entry),
    }


def cost(ready: Prepared, entry: Entry) -> dict[str, float]:
    """A solo step's time as a ratio to the linear probe's, steps taken in turns, and the bytes it keeps."""
    batch = next(iter(loader(ready, "train", 32).epoch(0)))
    cohorts = [Cohort(ready.backbone, [_fresh(ready, each)]) for each in (entry, LINEAR)]
    seconds, linear_s = in_turns(TIMED_STEPS, *(partial(cohort.step, batch) for cohort in cohorts))
    kept = saved_bytes(ready.backbone, _fresh(ready, entry), batch)
    return {"step_time_to_linear": seconds / linear_s, "kept_mb": kept / 1e6}


def markdown(name: str, rows: Sequence[dict[str, Any]], num_epochs: int) -> str:
    """The table as a page."""
    suite = SUITES[name]
    num_rates = len(suite.entries[0].rates)
    lines = [
        PAGE.format(
            title=suite.title,
            about=suite.about,
            command=_command(name, num_epochs),
            num_epochs=num_epochs,
            num_rates=num_rates,
        )
    ]
    for row in rows:
        star = "*" if row["lr_at_edge_of_grid"] else ""
        lines.append(
            table_row(
                row["title"],
                f"{row['configuration']}{star}",
                f"{row['tuner_params']:,}",
                f"{100 * fmean(row['val']):.1f}",
                percent(row["test_mean"], row["test_ci"]),
                f"{row['step_time_to_linear']:.2f}x",
                f"{row['kept_mb']:.1f}",
            )
        )
    if len(rows) < len(suite.entries):
        lines += ["", f"Not all: {len(rows)} of {len(suite.entries)} methods are measured so far."]
    return "\n".join([*lines, ""])


def main() -> None:
    """Measure every entry of a suite, as many groups at a time as there are processes, and write."""
    parser = argparse.ArgumentParser()
    parser.add_argument("suite", choices=sorted(SUITES))
    parser.add_argument("overrides", nargs="*", help="settings of the space, such as dataset.path=FOLDER")
    parser.add_argument("--epochs", type=int, default=EPOCHS)
    parser.add_argument("--processes", type=int, default=2)
    options = parser.parse_args()
    suite = SUITES[options.suite]
    groups = [suite.entries[at : at + suite.together] for at in range(0, len(suite.entries), suite.together)]
    rows: list[dict[str, Any]] = []
    with tempfile.TemporaryDirectory() as folder:
        work = Work(options.suite, tuple(options.overrides), options.epochs, Path(folder))
        work.prepare()  # once, before several processes want the same data set
        with multiprocessing.get_context("spawn").Pool(min(options.processes, len(groups))) as pool:
            for found in pool.imap(work.measure, groups):
                for row in found:
                    print(f"{row['title']}: {row['configuration']}  test {100 * row['test_mean']:.1f} %", flush=True)
                rows += found
                write(options.suite, rows, options.epochs)  # it takes long: what is measured is kept


def write(name: str, rows: Sequence[dict[str, Any]], num_epochs: int) -> None:
    """Write both result files."""
    page, values = markdown(name, rows, num_epochs), {"seeds": SEEDS, "epochs": num_epochs, "rows": rows}
    write_result(RESULT / f"{name}.json", _command(name, num_epochs), page, **values)


@dataclass(frozen=True)
class Work:
    """What a process needs to measure a group of entries."""

    suite: str
    overrides: tuple[str, ...]
    num_epochs: int
    folder: Path

    def prepare(self) -> Prepared:
        """The suite's space, with its data and backbone."""
        settings = [*self.overrides, f"train.epochs={self.num_epochs}", "train.batch_size=32"]
        return prepare_search(load_space(self.suite, settings), Workspace(self.folder))

    def measure(self, entries: Sequence[Entry]) -> list[dict[str, Any]]:
        """The rows of a group, in a process with one thread."""
        torch.set_num_threads(1)
        return measure(self.prepare(), entries)


def _command(name: str, num_epochs: int) -> str:
    paths = "" if name == "demo" else " dataset.path=FOLDER backbone.weights=FILE"
    epochs = "" if num_epochs == EPOCHS else f" --epochs {num_epochs}"
    return f"python benchmarks/methods.py {name}{paths}{epochs}"


def _fresh(ready: Prepared, entry: Entry) -> Member:
    return Member.from_trial(ready.backbone, trial_of(ready, entry, entry.rates[0], 0))


if __name__ == "__main__":
    main()
