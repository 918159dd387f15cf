"""A leaderboard's row again: its bundles scored once more on its data, or its trials trained once more.

A row is a configuration with its seeds, those that were trained after the search included. What is trained again goes
to a store of its own, HOME/reproductions, so that no leaderboard and no champion changes.
"""

import tempfile
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from rich.console import Console
from rich.markup import escape

from cluster.profile import Profile
from pipelines.deployment import verify
from pipelines.deployment.verify import Wrong, compared
from pipelines.results.compare import read_rows
from pipelines.results.leaderboard import FINISHED
from pipelines.tracking.artifacts import BUNDLE
from pipelines.tracking.records import RunRecord
from pipelines.tracking.tracker import Tracker
from pipelines.workflows.launch import launch
from pipelines.workflows.row_space import space_of, write_space
from pipelines.workspace import Workspace
from utuning.bundles.bundle import read_bundle
from utuning.cohort import Score
from utuning.configs import BackboneConfig, TrialConfig
from utuning.data.info import INFO_FILE
from utuning.data.shards import open_dataset
from utuning.errors import DataError, TrackingError, UTuningError

METRICS = ("train/loss", "val/loss", "val/accuracy", "test/accuracy")
ACCURACY = "/accuracy"


@dataclass(frozen=True, kw_only=True)
class Found:
    """A row: its space's name, and the runs of its seeds."""

    space: str
    runs: Sequence[RunRecord]

    @property
    def trial(self) -> TrialConfig:
        """The configuration, with the first seed."""
        return self.runs[0].trial


def find_row(tracker: Tracker, row: str) -> Found:
    """Find `SPACE:PLACE` on its leaderboard, or the newest finished run of a trial id.

    Raises:
        TrackingError: there is none.
    """
    space, colon, place = row.rpartition(":")
    if colon and place.isdecimal():
        return _placed(tracker, space, int(place))
    for name in tracker.spaces():
        runs = [run for run in tracker.runs(name) if run.trial.trial_id == row and run.outcome in FINISHED]
        if runs:
            return Found(space=name, runs=runs[:1])
    raise TrackingError(
        f"no finished trial has the id {row!r}; give SPACE:PLACE as its leaderboard shows it, such as demo:1, or the "
        "trial id of a manifest or an MLflow run"
    )


def find_data(workspace: Workspace, found: Found) -> Path:
    """Find the prepared data set of a row by its fingerprint.

    Raises:
        DataError: it is not in HOME/data.
    """
    wanted = found.trial.data_fingerprint
    for file in sorted(workspace.data("").glob(f"*/{INFO_FILE}")):
        if open_dataset(file.parent).fingerprint == wanted:
            return file.parent
    raise DataError(
        f"no data set in {workspace.data('')} has fingerprint {wanted[:16]}…, that of {found.trial.dataset}; give it "
        "by --data FOLDER, or prepare it again as for its search"
    )


def rescore(tracker: Tracker, found: Found, data: Path, weights: str | None, console: Console) -> bool:
    """Check the bundles of a row and score them again on the splits that it states; gives whether all is equal."""
    equal = True
    for run in found.runs:
        console.print(f"[bold]{run.trial.name}[/bold] trial {run.trial.trial_id}", highlight=False)
        with tempfile.TemporaryDirectory() as folder:
            bundle = tracker.artifacts.download(run.run_id, BUNDLE, Path(folder) / BUNDLE)
            equal &= verify.examine(bundle, weights, data, console, run.metrics)
    return equal


def retrain(
    tracker: Tracker,
    found: Found,
    data: Path,
    weights: str | None,
    console: Console,
    *,
    profile: Profile,
    workspace: Workspace,
) -> bool:
    """Train the trials of a row again, as `utuning train` would; gives whether the accuracies are equal.

    Raises:
        UTuningError: other data, or a backbone that is not the row's, before anything is trained.
    """
    info = open_dataset(data)
    if info.fingerprint != found.trial.data_fingerprint:
        raise DataError(
            f"{data} has fingerprint {info.fingerprint[:16]}…, the row was trained on "
            f"{found.trial.data_fingerprint[:16]}…; give the prepared set of its search"
        )
    apart = Workspace(workspace.root / "reproductions")
    backbone = _backbone(tracker, found, weights)
    file = write_space(space_of(found.space, found.runs, backbone, data), apart.root.absolute())
    console.print(f"trained again in a store of its own: {apart.root}; as {file}", highlight=False, soft_wrap=True)
    launch(str(file), (), console, fixed=True, profile=profile, workspace=apart)
    again = {run.trial.trial_id: run for run in Tracker.of(apart).runs(file.stem)[::-1]}
    same = [_same(run, again.get(run.trial.trial_id), info.counts, console) for run in found.runs]
    return all(same)


def differences(stated: Mapping[str, float], now: Mapping[str, float], counts: Mapping[str, int]) -> Iterator[str]:
    """Each metric that both have, in words.

    Raises:
        Wrong: accuracies that differ by more than another device's rounding explains.
    """
    for key in METRICS:
        if key not in stated or key not in now:
            continue
        if key.endswith(ACCURACY):
            split = key.removesuffix(ACCURACY)
            yield f"{split} {compared(stated[key], Score(loss=0.0, accuracy=now[key], count=counts[split]))}"
        else:
            gap = abs(stated[key] - now[key])
            yield f"{key} stated {stated[key]:.6f}, now {now[key]:.6f}: {f'differs by {gap:.1e}' if gap else 'equal'}"


def _placed(tracker: Tracker, space: str, place: int) -> Found:
    rows = [row for row in read_rows(tracker, space) if row.place is not None]
    for row in rows:
        if row.place == place:
            runs = {run.run_id: run for run in tracker.runs(space)}
            both = dict.fromkeys((*row.run_ids, *row.test_run_ids))
            return Found(space=space, runs=[runs[run_id] for run_id in both])
    raise TrackingError(f"{space!r} has places 1 to {len(rows)}, not {place}; see `utuning leaderboard {space}`")


def _backbone(tracker: Tracker, found: Found, weights: str | None) -> BackboneConfig:
    """The backbone that the first seed's bundle names, loaded once to see that it is still the same."""
    with tempfile.TemporaryDirectory() as folder:
        bundle = read_bundle(tracker.artifacts.download(found.runs[0].run_id, BUNDLE, Path(folder) / BUNDLE))
    return bundle.load_backbone(weights).config


def _same(run: RunRecord, again: RunRecord | None, counts: Mapping[str, int], console: Console) -> bool:
    try:
        if again is None or again.outcome not in FINISHED:
            raise Wrong(f"the trial did not come to its end again; see {run.trial.name!r} in the MLflow UI")
        for text in differences(run.metrics, again.metrics, counts):
            console.print(f"[green]ok[/green]    {run.trial.name}: {text}", highlight=False, soft_wrap=True)
    except (Wrong, UTuningError) as error:
        console.print(f"[red]wrong[/red] {run.trial.name}: {escape(str(error))}", highlight=False, soft_wrap=True)
        return False
    return True
