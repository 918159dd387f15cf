"""The server as clients meet it: real HTTP on loopback, in one process."""

import json
import threading
from collections import Counter
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import pytest
from prometheus_client.parser import text_string_to_metric_families

from pipelines.serving.aliases import Watched
from pipelines.serving.canary import Canary
from pipelines.serving.opening import Opened, open_all
from pipelines.serving.settings import Settings
from pipelines.serving.sources import Found
from tests.bundles import NAMES, save
from tests.serving import TUNERS, Live, form, frozen, live, opened, photo, saved, saved_all
from tests.tools import adapter, tiny_backbone
from utuning.bundles.bundle import Bundle, read_bundle
from utuning.configs import TunerConfig
from utuning.errors import TrackingError, UTuningError
from utuning.predict import Predictor

PHOTOS = [photo(seed) for seed in range(4)]


@pytest.fixture(scope="module")
def bundles(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    return saved_all(tmp_path_factory.mktemp("models"))


@pytest.fixture(scope="module")
def server(bundles: dict[str, Path]) -> Iterator[Live]:
    with live(opened(bundles), poll_s=0.01) as it:
        yield it


def alone(bundle: Path, image: bytes, folder: Path) -> dict[str, float]:
    """What `utuning predict` says."""
    file = folder / "image"
    file.write_bytes(image)
    (prediction,) = Predictor(read_bundle(bundle), frozen()).predict([file])
    return dict(prediction.classes)


def scores(prediction: dict[str, Any]) -> dict[str, float]:
    return {each["label"]: each["score"] for each in prediction["classes"]}


class Numbers(dict[tuple[str, frozenset[tuple[str, str]]], float]):
    """Metrics at one moment."""

    def of(self, name: str, **labels: str) -> float:
        """A metric's value; 0 where it was never counted."""
        return self.get((f"utuning_{name}", frozenset(labels.items())), 0.0)


def numbers(server: Live) -> Numbers:
    text = server.send("GET", "/metrics").content.decode()
    found = [each for family in text_string_to_metric_families(text) for each in family.samples]
    return Numbers({(each.name, frozenset(each.labels.items())): each.value for each in found})


# Predictions


def test_many_clients_at_once_get_what_each_bundle_alone_says(
    server: Live, bundles: dict[str, Path], tmp_path: Path
) -> None:
    expected = {(name, i): alone(path, PHOTOS[i], tmp_path) for name, path in bundles.items() for i in range(4)}

    def client(number: int) -> None:
        name, place = sorted(TUNERS)[number % 3], number % 4
        answer = server.predict(PHOTOS[place], tuners=name, id=str(number)).json
        assert answer["id"] == str(number)
        (result,) = answer["results"]
        (prediction,) = result["predictions"]
        assert (prediction["tuner"], prediction["alias"]) == (name, None)
        assert prediction["version"] == read_bundle(bundles[name]).manifest.trial_id
        assert scores(prediction) == pytest.approx(expected[name, place], abs=1e-5)

    with ThreadPoolExecutor(16) as clients:
        list(clients.map(client, range(48)))


def test_several_images_for_several_tuners_in_order_and_best_first(server: Live) -> None:
    body, headers = form(
        *(("images", f"{n}.png", image) for n, image in enumerate(PHOTOS)),
        *(("tuners", None, name.encode()) for name in ("lora", "adapter")),
        ("top", None, b"3"),
        ("id", None, b"mine"),
    )
    answer = server.send("POST", "/v1/predict", body, headers).json
    assert answer["id"] == "mine"
    assert [result["image"] for result in answer["results"]] == [f"{n}.png" for n in range(4)]
    for place, result in enumerate(answer["results"]):
        assert [prediction["tuner"] for prediction in result["predictions"]] == ["lora", "adapter"]
        for prediction in result["predictions"]:
            found = [each["score"] for each in prediction["classes"]]
            assert len(found) == 3 and found == sorted(found, reverse=True)
        one = server.predict(PHOTOS[place], tuners=["lora", "adapter"], top=3).json["results"][0]["predictions"]
        for mine, other in zip(result["predictions"], one, strict=True):
            assert scores(mine) == pytest.approx(scores(other), abs=1e-5)


def test_all_tuners_answer_for_one_image_which_runs_once(server: Live) -> None:
    before = numbers(server)
    (result,) = server.predict(PHOTOS[0], tuners="all", top=1000).json["results"]
    after = numbers(server)
    assert [each["tuner"] for each in result["predictions"]] == sorted(TUNERS)
    assert all(set(scores(each)) == set(NAMES) for each in result["predictions"])
    assert all(sum(scores(each).values()) == pytest.approx(1) for each in result["predictions"])
    assert after.of("batch_rows_count") - before.of("batch_rows_count") == 1
    assert after.of("batch_rows_sum") - before.of("batch_rows_sum") == len(TUNERS)


def test_more_tuners_than_a_batch_holds_are_spread_over_several(bundles: dict[str, Path]) -> None:
    with live(opened(bundles), max_batch=2) as server:
        (result,) = server.predict(PHOTOS[0], tuners="all").json["results"]
        assert [each["tuner"] for each in result["predictions"]] == sorted(bundles)
        assert numbers(server).of("batch_rows_count") == 2


def test_one_tuner_needs_no_name(bundles: dict[str, Path]) -> None:
    with live(opened({"only": bundles["lora"]})) as server:
        assert server.predict(PHOTOS[0]).json["results"][0]["predictions"][0]["tuner"] == "only"


# Lists, health, metrics


def test_what_is_held_is_listed(server: Live, bundles: dict[str, Path]) -> None:
    listed = server.send("GET", "/v1/tuners").json
    assert listed["loading"] is False
    assert [each["tuner"] for each in listed["tuners"]] == sorted(bundles)
    for each in listed["tuners"]:
        manifest = read_bundle(bundles[each["tuner"]]).manifest
        assert (each["version"], each["method"], each["num_classes"]) == (manifest.trial_id, manifest.method, 5)
        assert each["bytes"] > 0 and each["canary"] is None


def test_health_and_readiness_are_two_things(bundles: dict[str, Path], tmp_path: Path) -> None:
    with live(opened({}), allow_load=True, models=bundles["lora"].parent, token="open sesame") as server:
        assert server.send("GET", "/health").json == {"status": "ok"}
        assert (server.send("GET", "/ready").status, server.send("GET", "/ready").error["kind"]) == (503, "not_ready")
        key = {"Authorization": "Bearer open sesame"}
        assert server.predict(PHOTOS[0], tuners="all", headers=key).error["kind"] == "no_tuner"
        assert server.send("PUT", "/v1/tuners/lora", headers=key).status == 200
        assert server.send("GET", "/ready").status == 200


def test_metrics_count_what_happened(bundles: dict[str, Path]) -> None:
    with live(opened(bundles)) as server:
        server.predict(*PHOTOS[:2], tuners=["lora", "linear"])
        server.predict(PHOTOS[0], tuners="lorra")
        found = numbers(server)
        version = read_bundle(bundles["lora"]).manifest.trial_id
        assert found.of("images_total") == 2
        assert found.of("predictions_total", tuner="lora", version=version, alias="") == 2
        assert found.of("requests_total", route="/v1/predict", status="200") == 1
        assert found.of("requests_total", route="/v1/predict", status="404") == 1
        assert found.of("errors_total", kind="unknown_tuner") == 1
        assert found.of("request_seconds_count", route="/v1/predict") == 2
        assert found.of("batch_rows_sum") == 4
        assert found.of("queue_rows") == 0
        assert found.of("tuners") == 3
        listed = server.send("GET", "/v1/tuners").json["tuners"]
        assert found.of("tuner_bytes") == sum(each["bytes"] for each in listed)


# Loading and unloading


def test_tuners_are_loaded_and_unloaded_where_that_is_allowed(bundles: dict[str, Path]) -> None:
    with live(opened({"lora": bundles["lora"]}), allow_load=True, models=bundles["lora"].parent) as server:
        loaded = server.send("PUT", "/v1/tuners/adapter").json
        assert (loaded["tuner"], loaded["evicted"]) == ("adapter", [])
        assert server.predict(PHOTOS[0], tuners="adapter").status == 200
        assert server.send("DELETE", "/v1/tuners/adapter").json == {"unloaded": "adapter"}
        assert server.predict(PHOTOS[0], tuners="adapter").error["kind"] == "unknown_tuner"
        assert server.predict(PHOTOS[0]).status == 200


def test_the_least_recently_used_make_room_and_are_named(bundles: dict[str, Path]) -> None:
    sizes = {name: opened({name: path}).shelf.tuners[name].num_bytes for name, path in bundles.items()}
    what = opened({name: bundles[name] for name in ("lora", "linear")}, byte_budget=sum(sizes.values()) - 1)
    with live(what, allow_load=True, models=bundles["lora"].parent) as server:
        server.predict(PHOTOS[0], tuners="lora")
        assert server.send("PUT", "/v1/tuners/adapter").json["evicted"] == ["linear"]
        assert {each["tuner"] for each in server.send("GET", "/v1/tuners").json["tuners"]} == {"adapter", "lora"}
        # Nobody is in the way of its own next version.
        assert server.send("PUT", "/v1/tuners/lora").status == 200
        assert server.predict(PHOTOS[0], tuners="lora").status == 200


# Aliases and canaries


@dataclass
class Moving:
    """A source whose alias is moved by a test."""

    versions: dict[str, Path]
    now: str = "1"
    fails: bool = False
    num_fetched: int = field(default=0)

    def find(self) -> Found:
        if self.fails:
            raise TrackingError("the registry cannot be reached")
        return Found(self.now, "champion")

    def fetch(self, found: Found) -> Bundle:
        self.num_fetched += 1
        return read_bundle(self.versions[found.version])


@pytest.fixture(scope="module")
def versions(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    folder = tmp_path_factory.mktemp("versions")
    tuners = {"1": adapter("attn"), "2": adapter("mlp"), "3": TunerConfig(method="ssf")}
    return {version: saved(folder, version, tuner) for version, tuner in tuners.items()}


def moving(source: Moving, *others: str, canaries: tuple[Canary, ...] = ()) -> Opened:
    what = opened({}, canaries=canaries)
    for slot in ("beetles", *others):
        what.shelf.put(slot, source.fetch(source.find()), source.now, "champion")
    return replace(what, watched=(Watched("beetles", source, source.find()),))


def until(is_so: Callable[[], bool]) -> None:
    waited = threading.Event()
    for _ in range(3000):
        if is_so():
            return
        waited.wait(0.01)
    raise AssertionError("it did not happen")


def test_an_alias_moves_and_no_request_is_dropped(versions: dict[str, Path], tmp_path: Path) -> None:
    expected = {version: alone(path, PHOTOS[0], tmp_path) for version, path in versions.items()}
    source, done = Moving(versions), threading.Event()
    found: list[tuple[int, dict[str, Any]]] = []

    def client() -> None:
        while not done.is_set():
            answer = server.predict(PHOTOS[0], tuners="beetles")
            found.append((answer.status, answer.json))

    with live(moving(source), poll_s=0.02) as server:
        clients = [threading.Thread(target=client) for _ in range(3)]
        for each in clients:
            each.start()
        for version in ("2", "3", "1", "2"):
            source.now = version
            until(lambda: server.handler.shelf.tuners["beetles"].version == source.now)
        done.set()
        for each in clients:
            each.join()
        reloads = numbers(server).of("reloads_total", tuner="beetles", outcome="reloaded")
        assert server.handler.shelf._pool.names == (server.handler.shelf.tuners["beetles"].key,)
    assert reloads == 4 and {status for status, _ in found} == {200}
    for _, answer in found:
        (prediction,) = answer["results"][0]["predictions"]
        assert scores(prediction) == pytest.approx(expected[prediction["version"]], abs=1e-5)
        assert prediction["alias"] == "champion"


def test_a_registry_that_fails_or_a_bad_version_leaves_the_old_one(versions: dict[str, Path], tmp_path: Path) -> None:
    source = Moving({**versions, "4": tmp_path / "nothing"})
    with live(moving(source), poll_s=0.02) as server:

        def num_failed() -> float:
            return numbers(server).of("reloads_total", tuner="beetles", outcome="failed")

        for fails, now in ((True, "1"), (False, "4")):
            before = num_failed()
            source.fails, source.now = fails, now
            until(lambda before=before: num_failed() > before)  # type: ignore[misc]
            assert server.predict(PHOTOS[0]).json["results"][0]["predictions"][0]["version"] == "1"
        source.now = "2"
        until(lambda: server.handler.shelf.tuners["beetles"].version == "2")


def test_a_canary_takes_its_share_by_the_id_of_the_request(versions: dict[str, Path]) -> None:
    canary = Canary(tuner="beetles", alias="candidate", share=0.3)
    what = moving(Moving(versions), canaries=(canary,))
    what.shelf.put(canary.slot, read_bundle(versions["2"]), "2", "candidate")
    with live(what) as server:
        counted = Counter[str]()
        for number in range(40):
            header = {"X-Request-ID": str(number)}
            (prediction,) = server.predict(PHOTOS[0], headers=header).json["results"][0]["predictions"]
            counted[prediction["alias"]] += 1
            assert prediction["tuner"] == "beetles"
            assert prediction["version"] == ("2" if canary.takes(str(number)) else "1")
        found = numbers(server)
        assert (
            found.of("predictions_total", tuner=canary.slot, version="2", alias="candidate") == counted["candidate"] > 0
        )
        assert found.of("predictions_total", tuner="beetles", version="1", alias="champion") == counted["champion"] > 0
        named = server.predict(PHOTOS[0], tuners="beetles@candidate").json["results"][0]["predictions"]
        assert [each["version"] for each in named] == ["2"]
        shares = {each["tuner"]: each["canary"] for each in server.send("GET", "/v1/tuners").json["tuners"]}
        assert shares == {"beetles": None, "beetles@candidate": 0.3}


# Opening


def no_registry() -> Any:
    raise TrackingError("no registry here")


def test_folders_are_served_under_their_names_or_given_ones(bundles: dict[str, Path]) -> None:
    what = open_all([str(bundles["lora"]), f"mine={bundles['linear']}"], [], Settings(), no_registry)
    assert set(what.shelf.tuners) == {"lora", "mine"} and what.watched == ()


def test_what_cannot_be_served_is_refused_before_a_port_opens(bundles: dict[str, Path], tmp_path: Path) -> None:
    (tmp_path / "empty").mkdir()
    other = save(tmp_path / "other", tiny_backbone(seed=5))[0]
    lora = str(bundles["lora"])
    for given, canaries, says in (
        ([lora, lora], [], "'lora' is given 2 times; give each a name: NAME=BUNDLE"),
        ([lora, str(other)], [], "a server has one backbone"),
        ([lora], ["candidate=0.1"], "0 are served through an alias"),
        (["nowhere@champion"], [], "no registry here"),
        ([str(tmp_path / "empty")], [], "incomplete"),
    ):
        with pytest.raises(UTuningError, match=says):
            open_all(given, canaries, Settings(), no_registry)


def test_the_server_needs_neither_ray_nor_mlflow() -> None:
    from tests.unit.test_house import imported_by

    loaded = imported_by("import pipelines.serving.server, pipelines.serving.opening")
    assert {"fastapi", "torch"} <= loaded and loaded & {"ray", "mlflow", "optuna", "typer"} == set()


def test_the_page_is_one_file_that_loads_nothing(server: Live) -> None:
    answer = server.send("GET", "/")
    assert answer.status == 200 and answer.headers["content-type"].startswith("text/html")
    text = answer.content.decode().replace("http://www.w3.org/2000/svg", "")
    assert "http:" not in text and "https:" not in text and '<link rel="stylesheet"' not in text
    assert "default-src 'none'" in answer.headers["content-security-policy"]
    assert json.dumps("unsafe-inline") not in answer.headers["content-security-policy"]
