"""Earlier searches in a real store propose the first trials of a new one; nothing here needs Ray's processes."""

import json
from dataclasses import asdict, replace
from pathlib import Path

import pytest
from rich.console import Console

from pipelines.planning.plan import Prepared, expected_trials, planned_trials, prepare_search, space_digest
from pipelines.planning.proposals import WarmStart
from pipelines.search.history import STATISTICS, measured, recalled, remember_data, remember_start, warmed
from pipelines.search.searcher import SpaceSearcher
from pipelines.tracking.tracker import Tracker
from pipelines.workflows.show import show_plan
from pipelines.workspace import Workspace
from search_spaces.loader import load_space
from tests.e2e.tools import draw_images, write_space
from tests.tools import adapter, train, trial_of
from utuning.configs import TrialConfig
from utuning.statistics import DatasetStatistics, DepthStatistics

TUNERS = [{"method": "p_adapter", "ops": {"choice": [["attn"], ["mlp"], ["attn", "mlp"]]}, "bottleneck_dim": 4}]
BEST = trial_of(adapter("attn", "mlp", bottleneck_dim=4), train=train(lr=1e-2))
OTHERS = [trial_of(adapter(op, bottleneck_dim=4), train=train(lr=lr)) for op in ("attn", "mlp") for lr in (5e-3, 1e-2)]


@pytest.fixture(scope="module")
def workspace(tmp_path_factory: pytest.TempPathFactory) -> Workspace:
    return Workspace(tmp_path_factory.mktemp("runs"))


@pytest.fixture(scope="module")
def ready(workspace: Workspace, tmp_path_factory: pytest.TempPathFactory) -> Prepared:
    folder = tmp_path_factory.mktemp("space")
    file = write_space(folder / "fresh.yaml", draw_images(folder / "images"), tuners=TUNERS, budget={"num_trials": 5})
    return prepare_search(load_space(str(file)), workspace)


@pytest.fixture(scope="module")
def tracker(workspace: Workspace) -> Tracker:
    return Tracker.open(workspace.tracking_uri, workspace.artifacts)


def searched(tracker: Tracker, name: str, statistics: DatasetStatistics | None, best_first: list[TrialConfig]) -> None:
    """Write a whole search as a driver does."""
    parent = tracker.start_search(name, search_id=f"{name}-1", params={}, tags={})
    if statistics is not None:
        tracker.artifacts.keep(parent, STATISTICS, statistics.as_dict())
    for place, trial in enumerate(best_first):
        run_id = tracker.start_trial(parent, replace(trial, dataset=name, data_fingerprint=name))
        tracker.log_epoch(run_id, 1, {"val/accuracy": 0.9 - 0.1 * place})
        tracker.finish_trial(run_id, status="FINISHED", outcome="completed", metrics={"trainable_params": 10.0})
    tracker.finish_search(parent, "FINISHED", {}, {})


def moved(found: DatasetStatistics, by: float) -> DatasetStatistics:
    """The statistics of another data set, all of them so far away."""
    *states, features = (
        DepthStatistics(**{name: value + by for name, value in asdict(each).items()})
        for each in (*found.states, found.features)
    )
    sizes = {"num_classes": round(found.num_classes * (1 + 9 * by)), "num_images": found.num_images}
    return replace(found, states=tuple(states), features=features, **sizes)


def shown(ready: Prepared) -> str:
    console = Console(width=200, record=True, quiet=False, file=open("/dev/null", "w"))  # noqa: SIM115
    show_plan(ready, console)
    return console.export_text()


def test_a_new_data_set_begins_with_what_did_well_on_those_like_it(
    ready: Prepared, workspace: Workspace, tracker: Tracker
) -> None:
    cold = warmed(ready, workspace, tracker, resume=False)
    assert cold.proposals == () and cold.warm is not None and cold.warm.note.startswith("cold: ")
    assert expected_trials(cold) == expected_trials(ready) and "warm start cold" in shown(cold)

    found = measured(ready, workspace)
    assert measured(ready, workspace) == found and len(list(workspace.root.glob("statistics/*.json"))) == 1
    searched(tracker, "alike", moved(found, 0.01), [BEST, *OTHERS])
    searched(tracker, "unlike", moved(found, 0.9), [*OTHERS, BEST])
    searched(tracker, "mute", None, [BEST, *OTHERS])
    assert {search.search_id for search in recalled(tracker)} == {"alike-1", "unlike-1"}

    warm = warmed(ready, workspace, tracker, resume=False)
    assert warm.warm is not None and warm.warm.note.endswith(" from 2 earlier searches of 2 data sets")
    first = warm.proposals[0]
    assert first.label == "attn+mlp@all r4 lr1e-2" and first.reason.startswith("like alike (distance 0.")
    assert first.reason.endswith(f"): {first.label} was 1st of 5")
    assert f" 1. {first.label}: {first.reason}" in shown(warm)
    labels = [trial.label for trial in expected_trials(warm)]
    assert labels[1 : 1 + len(warm.proposals)] == [each.label for each in warm.proposals]
    assert len(labels) == len(set(labels)) == len(expected_trials(ready))
    assert space_digest(warm) == space_digest(ready), "how a search begins is no part of what it searches"


def test_a_search_that_goes_on_keeps_its_proposals(ready: Prepared, workspace: Workspace, tracker: Tracker) -> None:
    searched(tracker, "before", measured(ready, workspace), [BEST, *OTHERS])
    begun = warmed(ready, workspace, tracker, resume=False)
    assert begun.proposals
    tags = {"space_digest": space_digest(ready)}
    parent = tracker.start_search(ready.space.name, search_id="cut", params={}, tags=tags)
    remember_start(tracker, parent, begun.warm)
    remember_data(tracker, parent, ready, workspace)
    tracker.finish_search(parent, "KILLED", {}, {})
    assert tracker.client.get_run(parent).data.tags["warm_start"] == begun.warm.note if begun.warm else False
    kept = {file.path for file in tracker.client.list_artifacts(parent)}
    assert kept == {"statistics.json", "warm_start.json"}

    searched(tracker, "since", measured(ready, workspace), [*OTHERS, BEST])
    again = warmed(ready, workspace, Tracker.open(tracker.uri), resume=True)
    assert again.warm == begun.warm and expected_trials(again) == expected_trials(begun)
    assert warmed(ready, workspace, tracker, resume=False).warm != begun.warm

    colder = tracker.start_search(ready.space.name, search_id="cut-cold", params={}, tags=tags)
    remember_start(tracker, colder, None)
    tracker.finish_search(colder, "KILLED", {}, {})
    assert warmed(ready, workspace, tracker, resume=True).warm is None, "the newest one began cold"


def test_what_another_version_left_is_passed_over(tmp_path: Path, tracker: Tracker) -> None:
    searched(tracker, "old", None, [BEST, *OTHERS])
    (search,) = tracker.searches("old")
    for text in ("{}", "no JSON", json.dumps({"schema_version": 99})):
        (tmp_path / "statistics.json").write_text(text)
        tracker.artifacts.log(search.run_id, tmp_path / "statistics.json")
        assert search.search_id not in {found.search_id for found in recalled(tracker)}
    assert tracker.searches("nowhere") == []


@pytest.mark.parametrize("kind", ["random", "optuna"])
def test_proposals_come_right_after_the_baselines(
    kind: str, ready: Prepared, workspace: Workspace, tracker: Tracker
) -> None:
    searched(tracker, f"for-{kind}", measured(ready, workspace), [BEST, *OTHERS])
    space = replace(ready.space, budget=replace(ready.space.budget, searcher=kind))
    warm = warmed(replace(ready, space=space), workspace, tracker, resume=False)
    proposed = [each.label for each in warm.proposals]
    assert isinstance(warm.warm, WarmStart) and proposed
    whole = play(SpaceSearcher(space, warm.facts, {}, warm.picked))
    assert [trial.label for trial in whole[1 : 1 + len(proposed)]] == proposed
    assert len(whole) == len({trial.trial_id for trial in whole}) == 6
    planned = [trial.label for trial in planned_trials(warm)]
    assert planned[: 1 + len(proposed)] == [trial.label for trial in whole[: 1 + len(proposed)]]
    assert warm.reasons == {
        trial.config_id: each.reason for trial, each in zip(whole[1:], warm.proposals, strict=False)
    }
    done = {trial.trial_id: 0.5 for trial in whole[:2]}
    rest = play(SpaceSearcher(space, warm.facts, done, warm.picked))
    assert [trial.label for trial in rest[: len(proposed) - 1]] == proposed[1:]


def play(searcher: SpaceSearcher) -> list[TrialConfig]:
    trials: list[TrialConfig] = []
    while isinstance(suggested := searcher.suggest(f"t{len(trials)}"), dict):
        trials.append(TrialConfig.from_dict(suggested["case"]["trial"]))
        searcher.on_trial_complete(f"t{len(trials) - 1}", result={"val/accuracy": 0.5})
    return trials
