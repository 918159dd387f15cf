"""Does the memory of earlier searches help? Regret after 5 and 10 trials, begun cold and warm, on drawn data sets.

    python benchmarks/warm_start.py
    python benchmarks/warm_start.py --only dusk day    # in pieces: what is measured is kept, and added to

A pool of configurations of the demo space is trained once on each data set with each seed, as one cohort. Searches are
then looked up: a cold one tries the pool in random order (the mean over all orders, in closed form), a warm one begins
with what `pipelines.planning.proposals` proposes after searches of the pool on all the other data sets (leave one out).
Regret is the best val accuracy in the pool minus the best one found. Writes docs/results/warm_start/table.{md,json}.
"""

import argparse
import json
import multiprocessing
import tempfile
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from math import comb
from pathlib import Path
from statistics import fmean, pstdev
from typing import Any

import torch
from drawn_sets import drawn_sets
from measuring import accuracies, train_together
from result_file import SOURCE, write_result

from pipelines.planning.plan import prepare_search
from pipelines.planning.proposals import MOST_PROPOSALS, Remembered, Result, propose
from pipelines.results.leaderboard import half_width
from pipelines.search.history import measured
from pipelines.workspace import Workspace
from search_spaces.domains import replay
from search_spaces.loader import load_space
from search_spaces.space import Facts, SearchSpace
from utuning.configs import TrialConfig
from utuning.data.prepare import prepare
from utuning.statistics import DatasetStatistics

RESULT = Path(__file__).parent.parent / "docs" / "results" / "warm_start" / "table.json"
SEEDS = (0, 1, 2)
EPOCHS, POOL = 2, 24
AFTER = (5, 10)
COMMAND = "python benchmarks/warm_start.py"
PAGE = """# Warm start: what a new data set gains from the searches before it

`{command}`: {pool} configurations of the demo space (adapters, prefixes, prompts, side networks,
LoRA, SSF), {epochs} epochs, batch 8, each trained once on each of {num_sets} drawn data sets with seeds 0, 1, 2.
Drawn demo data and a tiny ViT: a check of the mechanism, not evidence about photos. Regret: best val accuracy
in the pool minus the best one found, in points, mean of 3 seeds; *cold* is the mean over all random orders,
*warm* begins with at most {proposals} proposals from searches of the other {others} data sets. *Nearest* is the
data set that speaks most for the first proposal. *All alike* gives every earlier data set the same weight: the
difference to *warm* is what the statistics add.

| data set | what it shows | best val % | nearest | {heads} |
|---|---|---:|---|{rules}
"""


@dataclass(frozen=True)
class Work:
    """What a process needs to measure a data set."""

    folder: Path
    epochs: int
    pool: int

    def measure(self, name: str) -> dict[str, Any]:
        """Statistics of a data set, and the val accuracy of every configuration with every seed."""
        torch.set_num_threads(1)
        started = time.perf_counter()
        data = prepare(drawn_sets()[name].examples(), self.folder / "data" / name, name=name)
        dataset = f"dataset={{name: {name}, source: parquet, path: {data.path}}}"
        ready = prepare_search(space_of(self.epochs, self.pool, dataset), Workspace(self.folder))
        statistics, drawn_s = measured(ready, Workspace(self.folder)), time.perf_counter() - started
        vals = []
        for seed in SEEDS:
            pool = pool_of(ready.space, ready.facts)
            trials = [replace(trial, train=replace(trial.train, seed=seed)) for trial in pool]
            vals.append(accuracies(ready, train_together(ready, trials), "val"))
        return {
            "name": name,
            "num_classes": ready.facts.num_classes,
            "statistics": statistics.as_dict(),
            "val": vals,
            "drawn_and_looked_at_s": drawn_s,
            "seconds": time.perf_counter() - started,
            "commit": SOURCE["commit"],
        }


def space_of(epochs: int, pool: int, dataset: str = "dataset.seed=0") -> SearchSpace:
    """The demo's space on one of these data sets."""
    sizes = ["train.batch_size=8", f"train.epochs={epochs}", f"budget.num_trials={pool}", "views=online"]
    return load_space("demo", [dataset, *sizes])


def pool_of(space: SearchSpace, facts: Facts) -> list[TrialConfig]:
    """The configurations that searches choose from: random ones, the same for all data sets."""
    return space.random_trials(facts)


def simulate(tables: Mapping[str, Mapping[str, Any]], space: SearchSpace) -> list[dict[str, Any]]:
    """For each data set regrets of cold and warm searches, each with what the others left; one value a seed."""
    rows = []
    for name, table in tables.items():
        statistics = DatasetStatistics.from_dict(table["statistics"])
        regrets: dict[str, list[float]] = {}
        for place, vals in enumerate(table["val"]):
            history = [_remembered(tables[other], space, place) for other in tables if other != name]
            blind = [replace(search, statistics=statistics) for search in history]
            orders = {
                "cold": [],
                "warm": proposed(history, statistics, space, _facts(name)),
                "warm, all alike": proposed(blind, statistics, space, _facts(name)),
            }
            for kind, order in orders.items():
                for count in AFTER:
                    regret = max(vals) - expected_best(vals, order, count)
                    regrets.setdefault(f"{kind} after {count}", []).append(100 * regret)
        nearest = propose(history, statistics, space, _facts(name), 1)
        first = nearest[0].reason if nearest else "nothing"
        rows.append({"name": name, "best": fmean(map(max, table["val"])), "regret": regrets, "first": first})
    return rows


def proposed(
    history: Sequence[Remembered], statistics: DatasetStatistics, space: SearchSpace, facts: Facts
) -> list[int]:
    """Places in the pool of what is proposed, in order."""
    places = {trial.config_id: place for place, trial in enumerate(pool_of(space, facts))}
    found = propose(history, statistics, space, facts, MOST_PROPOSALS)
    return [places[space.seeded(replay(each.picks), facts)[0].config_id] for each in found]


def expected_best(vals: Sequence[float], first: Sequence[int], count: int) -> float:
    """The best of `count` trials: the first ones as given, then any of the others, each order as likely."""
    given = max((vals[place] for place in first[:count]), default=0.0)
    rest = sorted((val for place, val in enumerate(vals) if place not in first), reverse=True)
    left = count - len(first)
    if left <= 0:
        return given
    # The best of a random subset is the i-th best of all if the other members are among those behind it.
    chances = [comb(len(rest) - at - 1, left - 1) / comb(len(rest), left) for at in range(len(rest))]
    return sum(chance * max(given, val) for chance, val in zip(chances, rest, strict=True))


def _remembered(table: Mapping[str, Any], space: SearchSpace, place: int) -> Remembered:
    """A whole search of the pool on one data set, with one seed."""
    name, vals = table["name"], table["val"][place]
    trials = [replace(trial, dataset=name) for trial in pool_of(space, _facts(name))]
    statistics = DatasetStatistics.from_dict(table["statistics"])
    order = sorted(range(len(vals)), key=lambda at: (-vals[at], at))
    results = tuple(Result(trial=trials[at], place=place) for place, at in enumerate(order, 1))
    return Remembered(search_id=name, statistics=statistics, results=results)


def _facts(name: str) -> Facts:
    return Facts(data_fingerprint=name, num_classes=2, backbone_fingerprint="demo")


def summary(rows: Sequence[Mapping[str, Any]]) -> dict[str, dict[str, float | None]]:
    """Means over the data sets, and what the warm starts spare, with 95 % intervals over the data sets."""
    found: dict[str, dict[str, float | None]] = {}
    for kind in rows[0]["regret"]:
        means = [fmean(row["regret"][kind]) for row in rows]
        cold = [fmean(row["regret"][f"cold after {kind.rpartition(' ')[2]}"]) for row in rows]
        spared = [before - after for before, after in zip(cold, means, strict=True)]
        found[kind] = {
            "regret": fmean(means), "regret_ci": half_width(means),
            "spared": fmean(spared), "spared_ci": half_width(spared),
            "better_on": sum(each > 0 for each in spared),
        }  # fmt: skip
    return found


def noise(tables: Mapping[str, Mapping[str, Any]]) -> tuple[float, float]:
    """Standard deviations of val in points: of a configuration over seeds, and between configurations."""
    columns = [list(zip(*table["val"], strict=True)) for table in tables.values()]
    over_seeds = fmean(pstdev(vals) for configurations in columns for vals in configurations)
    between = fmean(pstdev([fmean(vals) for vals in configurations]) for configurations in columns)
    return 100 * over_seeds, 100 * between


def markdown(tables: Mapping[str, Mapping[str, Any]], rows: Sequence[Mapping[str, Any]], epochs: int, pool: int) -> str:
    """The page."""
    kinds, about = list(rows[0]["regret"]), drawn_sets()
    head = PAGE.format(
        command=_command(epochs, pool), pool=pool, epochs=epochs, num_sets=len(rows), others=len(rows) - 1,
        proposals=MOST_PROPOSALS, heads=" | ".join(kinds), rules="---:|" * len(kinds),
    )  # fmt: skip
    lines = []
    for row in rows:
        nearest = row["first"].partition(":")[0].removeprefix("like ")
        values = " | ".join(f"{fmean(row['regret'][kind]):.1f}" for kind in kinds)
        lines.append(f"| {row['name']} | {about[row['name']].about} | {100 * row['best']:.1f} | {nearest} | {values} |")
    found = summary(rows)
    means = " | ".join(f"**{_shown(found[kind]['regret'], found[kind]['regret_ci'])}**" for kind in kinds)
    lines += [f"| **mean** (95 % CI over data sets) | | | | {means} |", ""]
    for kind in kinds:
        if not kind.startswith("cold"):
            spared = _shown(found[kind]["spared"], found[kind]["spared_ci"])
            better = f"better on {found[kind]['better_on']} of {len(rows)}"
            lines.append(f"- {kind}: {spared} points less regret than cold; {better}.")
    seeds, between = noise(tables)
    seconds = sum(table["seconds"] for table in tables.values())
    lines += [
        "",
        f"A configuration's val varies by {seeds:.1f} points (standard deviation over seeds), configurations by",
        f"{between:.1f} points; a search picks the luckiest val, so part of every regret is noise. Measuring took",
        f"{seconds:.0f} s of one core in all.",
    ]
    if len(rows) < len(about):
        lines += ["", f"Not all: {len(rows)} of {len(about)} data sets are measured so far."]
    return head + "\n".join(lines) + "\n"


def _shown(value: float | None, ci: float | None) -> str:
    return f"{value:.1f}" + ("" if ci is None else f" ± {ci:.1f}")


def _command(epochs: int, pool: int) -> str:
    sizes = {"--epochs": (epochs, EPOCHS), "--pool": (pool, POOL)}
    return " ".join([COMMAND, *(f"{key} {value}" for key, (value, usual) in sizes.items() if value != usual)])


def write(tables: Mapping[str, Mapping[str, Any]], epochs: int, pool: int, result: Path) -> None:
    """Write both files; with one data set there is nobody to learn from, and no page yet."""
    space = space_of(epochs, pool)
    tables = {name: tables[name] for name in drawn_sets() if name in tables}
    rows = simulate(tables, space) if len(tables) > 1 else []
    labels = [trial.label for trial in pool_of(space, _facts(""))]
    values = {"epochs": epochs, "pool": labels, "seeds": SEEDS, "tables": tables, "rows": rows}
    page = markdown(tables, rows, epochs, pool) if rows else None
    write_result(result, _command(epochs, pool), page, **values, summary=summary(rows) if rows else {})


def kept(epochs: int, pool: int, result: Path) -> dict[str, dict[str, Any]]:
    """What was measured before in the same way."""
    if not result.exists():
        return {}
    values = json.loads(result.read_text())
    labels = [trial.label for trial in pool_of(space_of(epochs, pool), _facts(""))]
    same = (values["epochs"], values["pool"]) == (epochs, labels)
    return dict(values["tables"]) if same else {}


def main() -> None:
    """Measure what is missing, data sets side by side, and write after each."""
    parser = argparse.ArgumentParser()
    parser.add_argument("--only", nargs="*", choices=list(drawn_sets()), help="these data sets alone")
    parser.add_argument("--epochs", type=int, default=EPOCHS)
    parser.add_argument("--pool", type=int, default=POOL, help="configurations")
    parser.add_argument("--processes", type=int, default=2)
    parser.add_argument("--result", type=Path, default=RESULT)
    options = parser.parse_args()
    tables = kept(options.epochs, options.pool, options.result)
    missing = [name for name in options.only or drawn_sets() if name not in tables]
    with tempfile.TemporaryDirectory() as folder:
        work = Work(Path(folder), options.epochs, options.pool)
        with multiprocessing.get_context("spawn").Pool(max(1, min(options.processes, len(missing)))) as pool:
            for table in pool.imap_unordered(work.measure, missing):
                tables[table["name"]] = table
                best = max(map(max, table["val"]))
                print(f"{table['name']}: {table['seconds']:.0f} s, best val {best:.3f}", flush=True)
                write(tables, options.epochs, options.pool, options.result)
    write(tables, options.epochs, options.pool, options.result)


if __name__ == "__main__":
    main()
