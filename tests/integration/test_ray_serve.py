"""The same server as a Ray Serve application, on a real Ray."""

import json
from collections.abc import Iterator
from http.client import HTTPConnection
from pathlib import Path
from typing import Any

import pytest

from pipelines.serving.failures import ServingError
from tests.serving import form, live, opened, photo, saved_all

ray = pytest.importorskip("ray")
serve = pytest.importorskip("ray.serve")


@pytest.fixture(scope="module")
def bundles(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    return saved_all(tmp_path_factory.mktemp("models"))


@pytest.fixture(scope="module")
def port() -> Iterator[int]:
    import socket

    with socket.create_server(("127.0.0.1", 0)) as free:
        number = free.getsockname()[1]
    ray.init(address="local", num_cpus=2, include_dashboard=False, log_to_driver=False)
    serve.start(http_options={"host": "127.0.0.1", "port": number})
    yield number
    serve.shutdown()
    ray.shutdown()


def test_a_replica_answers_as_the_plain_server_does(bundles: dict[str, Path], port: int) -> None:
    from pipelines.serving.ray_app import application

    given = ",".join(str(path) for path in bundles.values())
    serve.run(application({"bundles": given, "max_wait_ms": "1", "max_images": "2"}), route_prefix="/")

    def send(method: str, path: str, *request: Any) -> Any:
        connection = HTTPConnection("127.0.0.1", port, timeout=120)
        connection.request(method, path, *request)
        response = connection.getresponse()
        content = response.read()
        return response.status, content

    body, headers = form(("images", "it.png", photo()), ("tuners", None, b"all"), ("id", None, b"7"))
    status, content = send("POST", "/v1/predict", body, headers)
    with live(opened(bundles)) as plain:
        assert (status, json.loads(content)) == (200, plain.send("POST", "/v1/predict", body, headers).json)
    body, headers = form(*[("images", "it.png", photo())] * 3)
    status, content = send("POST", "/v1/predict", body, headers)
    assert status == 400 and "Too many files" in json.loads(content)["error"]["message"]
    assert b"utuning_batch_rows_count 1.0" in send("GET", "/metrics")[1]


@pytest.mark.parametrize(
    ("args", "says"),
    [
        ({}, "has no bundle"),
        ({"bundle": "a"}, "unknown argument 'bundle'; did you mean 'bundles'"),
        ({"bundles": "a", "max_batch": "0"}, "max_batch is 0; allowed"),
        ({"bundles": "a", "max_batch": "many"}, "give numbers where they are due"),
    ],
)
def test_bad_arguments_are_named_before_anything_is_deployed(args: dict[str, str], says: str) -> None:
    from pipelines.serving.ray_app import application

    with pytest.raises(ServingError, match=says):
        application(args)
