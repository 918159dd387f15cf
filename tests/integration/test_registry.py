"""Champions in a real model registry: on sqlite, and behind a real tracking server that proxies artifacts."""

import json
from pathlib import Path

import pytest

from pipelines.registry.models import Registry
from pipelines.registry.promotion import Candidate, decide
from pipelines.registry.references import parse_reference
from pipelines.search.champions import promote
from pipelines.tracking.tracker import Tracker
from search_spaces.loader import load_space
from tests.e2e.tools import NOWHERE, utuning_here
from tests.registered import finished_run
from utuning.bundles.bundle import Bundle, read_bundle
from utuning.errors import BundleError, TrackingError

NAME = "utuning-beetles"
TAGS = {"val": "0.6", "protocol": "v1", "data_fingerprint": "d1", "config_id": "c1", "trainable_params": "9"}


@pytest.fixture(params=["embedded", "served"])
def tracker(request: pytest.FixtureRequest) -> Tracker:
    found: Tracker = request.getfixturevalue(request.param)
    return found


def pull(registry: Registry, text: str, to: Path) -> Bundle:
    return read_bundle(registry.fetch(registry.resolve(parse_reference(text)), to))


def seed_of(bundle: Bundle) -> int:
    return bundle.manifest.trial.train.seed


def utuning(tracker: Tracker, *arguments: object) -> tuple[int, str]:
    done = utuning_here(NOWHERE, *arguments, "--tracking-uri", tracker.uri)
    return done.returncode, done.stdout + done.stderr


def test_promote_pull_and_promote_again(tracker: Tracker, tmp_path: Path) -> None:
    registry = Registry(tracker)
    assert registry.champion(NAME) is None
    first = finished_run(tracker, tmp_path / "work", 0)
    tracker.log_test(first, {"test/accuracy": 0.25, "test/count": 8})
    assert registry.promote(NAME, first, tags=TAGS) == 1
    assert registry.promote(NAME, first, tags=TAGS) == 1, "a run has one version"
    champion = registry.champion(NAME)
    assert champion is not None and (champion.version, champion.run_id, champion.val) == (1, first, 0.6)
    known = Candidate.from_tags(champion.run_id, champion.tags)
    assert not decide(Candidate.from_tags("other", TAGS), known).promote

    pulled = pull(registry, NAME, tmp_path / "deep" / "pulled")
    assert seed_of(pulled) == 0
    assert (pulled.manifest.metrics["val/accuracy"], pulled.manifest.metrics["test/accuracy"]) == (0.5, 0.25)
    assert (pulled.manifest.protocol, pulled.manifest.seeds) == ("v1", (0,))
    assert [path.name for path in (tmp_path / "deep").iterdir()] == ["pulled"]

    second = finished_run(tracker, tmp_path / "work", 1)
    assert registry.promote(NAME, second, tags={**TAGS, "val": "0.7"}) == 2
    registry.set_alias(NAME, "previous", 1)
    assert registry.aliases(NAME) == {"champion": 2, "candidate": 2, "former": 1, "previous": 1}
    (tmp_path / "empty").mkdir()
    names = {f"{NAME}@previous": 0, "beetles@former": 0, "beetles/1": 0, "beetles/2": 1, "beetles": 1, first: 0}
    for place, (text, seed) in enumerate(names.items()):
        assert seed_of(pull(registry, text, tmp_path / (str(place) if place else "empty"))) == seed
    again = read_bundle(tmp_path / str(len(names) - 1))
    assert again.manifest == pulled.manifest, "a run's own bundle is pulled with the test that was read since"


def test_the_best_of_a_search_is_the_candidate_and_the_best_of_all_the_champion(
    embedded: Tracker, tmp_path: Path
) -> None:
    space, registry, found = load_space("demo"), Registry(embedded), []
    for seed, (val, aliases) in enumerate(
        [
            (0.6, {"champion": 1, "candidate": 1}),
            (0.5, {"champion": 1, "candidate": 2}),
            (0.7, {"champion": 3, "candidate": 3, "former": 1}),
        ]
    ):
        metrics = {"val/accuracy": val, "trainable_params": 9}
        found.append(finished_run(embedded, tmp_path / "work", seed, space="contest", metrics=metrics))
        runs = [run for run in embedded.runs("contest") if run.run_id == found[-1]]
        decision, champion = promote(space, embedded, runs)
        assert registry.aliases(space.model_name) == aliases
        assert champion == found[aliases["champion"] - 1] and decision.promote is (val != 0.5)
    registry.set_alias(space.model_name, "champion", 1)
    assert registry.aliases(space.model_name) == {"champion": 1, "candidate": 3, "former": 3}, "rolled back"


def test_the_command_line_lists_pulls_and_moves(tracker: Tracker, tmp_path: Path) -> None:
    registry = Registry(tracker)
    for seed in (0, 1):
        run_id = finished_run(tracker, tmp_path / "work", seed, space="space")
        registry.promote(NAME, run_id, tags=TAGS)
    newest = max(registry.aliases(NAME).values())
    code, said = utuning(tracker, "models", "beetles")
    assert code == 0 and "champion" in said and "50.00%" in said
    code, said = utuning(tracker, "models", "--json")
    (row,) = (row for row in json.loads(said) if row["model"] == NAME and "champion" in row["aliases"])
    assert (row["val"], row["seed"], row["val_of_all_seeds"]) == (0.5, row["version"] - 1, 0.6)

    assert utuning(tracker, "alias", "beetles@canary", newest)[0] == 0
    assert utuning(tracker, "alias", "beetles@champion", 1)[0] == 0
    assert utuning(tracker, "alias", "beetles@champion", "canary")[0] == 0
    assert utuning(tracker, "pull", "beetles@former", "--to", tmp_path / "a")[0] == 0
    assert seed_of(read_bundle(tmp_path / "a")) == 0
    assert utuning(tracker, "alias", "beetles@canary", "--delete")[0] == 0
    assert "canary" not in registry.aliases(NAME)
    for arguments, says in (
        (["pull", "beetles@canary", "--to", tmp_path / "b"], "allowed: candidate, champion, former"),
        (["pull", "beetles/77", "--to", tmp_path / "b"], "has no version 77; there are: 1, 2"),
        (["pull", "models:/beetles", "--to", tmp_path / "b"], "allowed: NAME@ALIAS, NAME/VERSION"),
        (["alias", "beetles", "1"], "names no alias; allowed: NAME@ALIAS"),
        (["alias", "beetles@canary"], "needs either a VERSION"),
        (["alias", "beetles@canary", "1", "--delete"], "needs either a VERSION"),
        (["alias", "beetles@v7", "1"], "neither `latest` nor v with a number"),
        (["alias", "beetles@canary", "nobody"], "no alias of 'utuning-beetles' is called 'nobody'"),
        (["models", "beetle"], "did you mean 'utuning-beetles'"),
    ):
        code, said = utuning(tracker, *arguments)
        assert code == 1 and said.startswith("error: ") and says in said
    assert not (tmp_path / "b").exists()


def test_what_is_unknown_is_listed(embedded: Tracker, tmp_path: Path) -> None:
    registry = Registry(embedded)
    registry.promote(NAME, finished_run(embedded, tmp_path / "work", 2), tags=TAGS)
    for text, says in (
        ("utuning-beetle", f"no model is called 'utuning-beetle'; did you mean '{NAME}'"),
        ("beetles@chmpion", r"no alias .* is called 'chmpion'; did you mean 'champion'"),
        ("beetles/99", r"'utuning-beetles' has no version 99; there are: .*\d"),
        ("0" * 32, f"has the id {'0' * 32}; searched were: .*space"),
    ):
        with pytest.raises(TrackingError, match=says):
            registry.resolve(parse_reference(text))


def test_a_run_without_a_bundle_is_not_promoted(embedded: Tracker, tmp_path: Path) -> None:
    run_id = finished_run(embedded, tmp_path / "work", 3, bundle=False)
    with pytest.raises(TrackingError, match="has no bundle"):
        Registry(embedded).promote("utuning-empty", run_id, tags=TAGS)
    with pytest.raises(TrackingError, match="no model is called 'utuning-empty'"):
        Registry(embedded).aliases("utuning-empty")


def test_nothing_is_overwritten_or_half_written(embedded: Tracker, tmp_path: Path) -> None:
    registry = Registry(embedded)
    registry.promote(NAME, finished_run(embedded, tmp_path / "work", 4), tags=TAGS)
    (tmp_path / "mine").write_text("keep")
    for taken in (tmp_path / "work", tmp_path / "mine"):
        with pytest.raises(TrackingError, match="exists and is not an empty folder"):
            pull(registry, NAME, taken)
    with pytest.raises(TrackingError, match="could not copy"):
        pull(registry, NAME, tmp_path / "mine" / "pulled")
    assert sorted(path.name for path in tmp_path.iterdir()) == ["mine", "work"]
    assert (tmp_path / "mine").read_text() == "keep"


def test_a_bundle_that_is_gone_or_altered_leaves_nothing(embedded: Tracker, tmp_path: Path) -> None:
    registry = Registry(embedded)
    registry.promote(NAME, finished_run(embedded, tmp_path / "work", 5), tags=TAGS)
    bundle = Path(registry.resolve(parse_reference(NAME)).source.removeprefix("file://"))
    tensors = bundle / "tuner.safetensors"
    tensors.write_bytes(tensors.read_bytes()[:-1])
    with pytest.raises(BundleError, match=r"artifacts/bundle/tuner\.safetensors was altered or cut short"):
        pull(registry, NAME, tmp_path / "to" / "pulled")
    bundle.rename(tmp_path / "elsewhere")
    with pytest.raises(TrackingError, match="could not copy"):
        pull(registry, NAME, tmp_path / "to" / "pulled")
    assert not list((tmp_path / "to").iterdir())
