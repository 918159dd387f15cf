"""Is there something to find in the demo? Every family over three seeds, same epochs for all.

    python benchmarks/demo_table.py

The configurations of tuners are the demo space's own random trials; linear and full fine-tuning have two learning rates
each. Each family's configuration is chosen by its mean val accuracy over the seeds; only then is test read, for the
chosen ones. Members of one seed train together as a cohort.
Writes docs/results/demo/three_seeds.{md,json}.
"""

import tempfile
import time
from collections.abc import Sequence
from dataclasses import asdict, replace
from pathlib import Path
from statistics import fmean
from typing import Any

import torch
from measuring import accuracies, percent, tested, train_together
from result_file import table_row, write_result

from pipelines.planning.plan import Prepared, prepare_search
from pipelines.workspace import Workspace
from search_spaces.loader import load_space
from utuning.configs import TrialConfig
from utuning.member import Member

SEEDS = (0, 1, 2)
U_TUNERS = {"p_adapter", "p_prefix", "p_prompt"}
FAMILIES = ("linear", "U-Tuning", "another method", "full")
LEARNING_RATES = {"linear": (1e-2, 3e-2), "full": (5e-4, 1e-3)}
RESULT = Path(__file__).parent.parent / "docs" / "results" / "demo"
Trained = dict[str, tuple[TrialConfig, Member]]


def candidates(ready: Prepared) -> list[TrialConfig]:
    """Every configuration of the three families, with seed 0."""
    fixed = [
        replace(trial, train=replace(trial.train, lr=lr))
        for trial in ready.space.baseline_trials(ready.facts)
        for lr in LEARNING_RATES.get(trial.method, (trial.train.lr,))
    ]
    return fixed + ready.space.random_trials(ready.facts)


def train_seed(ready: Prepared, trials: Sequence[TrialConfig], seed: int) -> Trained:
    """Train all configurations with one seed, together."""
    seeded = [replace(trial, train=replace(trial.train, seed=seed)) for trial in trials]
    members = train_together(ready, seeded)
    return {trial.config_id: (trial, member) for trial, member in zip(seeded, members, strict=True)}


def family_of(trial: TrialConfig) -> str:
    """A baseline's own name, U-Tuning, or another of the space's methods."""
    if trial.method in LEARNING_RATES:
        return trial.method
    return "U-Tuning" if {tuner.method for tuner in trial.tuners} <= U_TUNERS else "another method"


def scores(ready: Prepared, trained: Trained) -> dict[str, float]:
    """Every configuration's val accuracy with one seed."""
    return dict(zip(trained, accuracies(ready, [member for _, member in trained.values()], "val"), strict=True))


def rows(ready: Prepared, by_seed: Sequence[Trained]) -> list[dict[str, Any]]:
    """For each family the configuration with the best mean val, and its test accuracy: the one reading of test."""
    found = []
    scored = [scores(ready, trained) for trained in by_seed]
    for family in FAMILIES:
        ids = [key for key, (trial, _) in by_seed[0].items() if family_of(trial) == family]
        chosen = max(ids, key=lambda key: fmean(each[key] for each in scored))
        members = [trained[chosen][1] for trained in by_seed]
        tests = [accuracies(ready, [member], "test")[0] for member in members]
        found.append(
            {
                "family": family,
                "configuration": by_seed[0][chosen][0].label,
                "tried": len(ids),
                "trainable_params": sum(members[0].num_parameters().values()),
                "val": [each[chosen] for each in scored],
                **tested(tests),
            }
        )
    return found


def markdown(table: Sequence[dict[str, Any]], num_epochs: int, seconds: float) -> str:
    """The table as a page."""
    lines = [
        "# Demo data: linear probe, best U-Tuning, best other method, full fine-tuning",
        "",
        f"Drawn demo data, not a benchmark. `python benchmarks/demo_table.py`: {num_epochs} epochs, seeds 0, 1, 2;",
        "configuration chosen on val (mean over seeds), test read once for the chosen ones; 95 % confidence intervals",
        "(Student t, 3 seeds).",
        "",
        "| family | chosen configuration | tried | trainable | val % | test % |",
        "|---|---|---:|---:|---:|---:|",
    ]
    for row in table:
        facts = (row["family"], row["configuration"], row["tried"], f"{row['trainable_params']:,}")
        lines.append(table_row(*facts, f"{100 * fmean(row['val']):.1f}", percent(row["test_mean"], row["test_ci"])))
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
    command = "python benchmarks/demo_table.py"
    write_result(RESULT / "three_seeds.json", command, page, seeds=SEEDS, rows=table, facts=facts)


if __name__ == "__main__":
    main()
