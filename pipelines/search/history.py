"""What searches leave for later ones: statistics of their data, in the tracking store beside their trials."""

import json
import os
from collections.abc import Iterator
from contextlib import suppress
from dataclasses import asdict, replace
from pathlib import Path

from pipelines.planning.plan import Prepared, space_digest
from pipelines.planning.proposals import Proposal, Remembered, Result, WarmStart, num_proposals, propose
from pipelines.results.leaderboard import rows
from pipelines.tracking.tracker import Tracker
from pipelines.workspace import Workspace
from utuning.configs import digest
from utuning.data.stored import opened, shared_split
from utuning.errors import ConfigError, DataError
from utuning.statistics import MOST_IMAGES, SCHEMA_VERSION, DatasetStatistics, dataset_statistics

STATISTICS = "statistics.json"
WARM_START = "warm_start.json"
NO_HISTORY = "cold: the tracking store holds no earlier search with statistics and two results; this one will be one"
NOTHING_FITS = "cold: nothing in {} that did better than the middle can be drawn in this space"


def warmed(ready: Prepared, workspace: Workspace, tracker: Tracker, *, resume: bool) -> Prepared:
    """Add the proposals of earlier searches; those that a search began with, if it goes on: warm or cold, it stays so.

    Raises:
        TrackingError: a store that cannot be read, or no search to go on with.
        DataError: images that cannot be read.
    """
    if resume:
        return replace(ready, warm=_begun_with(ready, tracker))
    history = list(recalled(tracker))
    return replace(ready, warm=_warm_start(ready, workspace, history) if history else WarmStart(note=NO_HISTORY))


def remember_start(tracker: Tracker, parent_run_id: str, warm: WarmStart | None) -> None:
    """Keep what a search begins with.

    Raises:
        TrackingError: a store that cannot be written.
    """
    if warm is not None:
        tracker.artifacts.keep(parent_run_id, WARM_START, asdict(warm))
        tracker.note(parent_run_id, "warm_start", warm.note)


def remember_data(tracker: Tracker, parent_run_id: str, ready: Prepared, workspace: Workspace) -> None:
    """Keep the statistics of a search's data for later ones, which miss them where they cannot be measured.

    Raises:
        TrackingError: a store that cannot be written.
    """
    with suppress(DataError, ConfigError):
        tracker.artifacts.keep(parent_run_id, STATISTICS, measured(ready, workspace).as_dict())


def recalled(tracker: Tracker) -> Iterator[Remembered]:
    """Every search in the store that left statistics and two results or more."""
    for space_name in tracker.spaces():
        known = {run.search_id: _read(tracker, run.run_id) for run in tracker.searches(space_name)}
        runs = tracker.runs(space_name) if any(known.values()) else []
        trials = {run.run_id: run.trial for run in runs}
        for search_id, statistics in known.items():
            placed = [row for row in rows(runs, search_id=search_id) if row.place is not None]
            if statistics is not None and len(placed) > 1:
                results = (Result(trial=trials[row.run_ids[0]], place=row.place or 0) for row in placed)
                yield Remembered(search_id=search_id, statistics=statistics, results=tuple(results))


def measured(ready: Prepared, workspace: Workspace) -> DatasetStatistics:
    """Statistics of the train split, measured once for these data, this backbone and this preprocessing."""
    facts = {"data": ready.facts.data_fingerprint, "backbone": ready.facts.backbone_fingerprint}
    how = {"preprocessing": asdict(ready.backbone.preprocessing), "most": MOST_IMAGES, "version": SCHEMA_VERSION}
    file = workspace.statistics(digest({**facts, **how}))
    try:
        return DatasetStatistics.from_dict(json.loads(file.read_text()))
    except (OSError, ValueError, KeyError, TypeError):
        return _measure(ready, file, workspace.states / "rows")


def _measure(ready: Prepared, file: Path, rows_cache: Path) -> DatasetStatistics:
    train = opened(shared_split(ready.dataset, "train"), rows_cache)
    found = dataset_statistics(ready.backbone, train, ready.facts.num_classes)
    file.parent.mkdir(parents=True, exist_ok=True)
    partial = file.with_suffix(f".{os.getpid()}.partial")
    partial.write_text(json.dumps(found.as_dict(), indent=2) + "\n")
    partial.replace(file)
    return found


def _warm_start(ready: Prepared, workspace: Workspace, history: list[Remembered]) -> WarmStart:
    found = propose(history, measured(ready, workspace), ready.space, ready.facts, num_proposals(ready.space))
    datasets = {search.seen[0] for search in history}
    of = f"{_count(len(history), 'earlier search', 'es')} of {_count(len(datasets), 'data set', 's')}"
    note = f"{_count(len(found), 'proposal', 's')} from {of}" if found else NOTHING_FITS.format(of)
    return WarmStart(note=note, proposals=tuple(found))


def _begun_with(ready: Prepared, tracker: Tracker) -> WarmStart | None:
    name = ready.space.name
    search_id = tracker.unfinished_search(name, space_digest(ready))
    run_id = next(run.run_id for run in tracker.searches(name) if run.search_id == search_id)
    kept = tracker.artifacts.kept(run_id, WARM_START)
    if kept is None:
        return None
    return WarmStart(note=kept["note"], proposals=tuple(Proposal(**each) for each in kept["proposals"]))


def _read(tracker: Tracker, run_id: str) -> DatasetStatistics | None:
    try:
        kept = tracker.artifacts.kept(run_id, STATISTICS)
        return None if kept is None else DatasetStatistics.from_dict(kept)
    except (ValueError, KeyError, TypeError):  # of another version of this project
        return None


def _count(number: int, noun: str, ending: str) -> str:
    return f"{number} {noun}{'' if number == 1 else ending}"
