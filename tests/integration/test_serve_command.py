"""`utuning serve` as a process, with a real registry: aliases, a canary, a clean end."""

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from http.client import HTTPConnection
from pathlib import Path
from typing import Any

import pytest

from pipelines.registry.models import Registry
from pipelines.serving.canary import Canary
from pipelines.tracking.tracker import Tracker
from tests.bundles import METRICS, NAMES, trained, trial
from tests.serving import form, frozen, photo, saved
from tests.tools import train
from utuning.bundles.bundle import save_bundle

MODEL = "utuning-beetles"
CLI = [sys.executable, "-m", "pipelines.cli", "serve"]


@contextmanager
def serving(*arguments: str) -> Iterator[tuple[str, int, subprocess.Popen[str]]]:
    """What it printed until it served, its port, and the process."""
    process = subprocess.Popen(
        [*CLI, *arguments, "--port", "0"],
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        env={**os.environ, "PYTHONUNBUFFERED": "1"},
    )
    assert process.stdout is not None
    try:
        said = ""
        while "serving on" not in said:
            line = process.stdout.readline()
            assert line, said
            said += line
        yield said, int(said.split("http://127.0.0.1:")[1].split()[0]), process
    finally:
        process.kill()
        process.wait()


def ask(port: int, request_id: str) -> dict[str, Any]:
    connection = HTTPConnection("127.0.0.1", port, timeout=120)
    body, headers = form(("images", "it.png", photo()), ("id", None, request_id.encode()))
    connection.request("POST", "/v1/predict", body, headers)
    (result,) = json.loads(connection.getresponse().read())["results"]
    (prediction,) = result["predictions"]
    found: dict[str, Any] = prediction
    return found


def registered(tracker: Tracker, folder: Path, seed: int) -> None:
    """The next version of the model, which is the champion then."""
    config = trial(frozen(), train=train(seed=seed))
    bundle = save_bundle(
        folder / f"bundle{seed}", trained(frozen(), config), backbone=frozen(), trial=config, class_names=NAMES,
        metrics=METRICS, versions={},
    )  # fmt: skip
    parent = tracker.start_search("space", search_id=f"s{seed}", params={"a": 1}, tags={})
    run_id = tracker.start_trial(parent, config)
    tracker.finish_trial(run_id, status="FINISHED", outcome="completed", metrics={}, bundle=bundle, error=None)
    Registry(tracker).promote(MODEL, run_id, tags={"val": "0.6"})


def test_an_alias_of_a_real_registry_moves_while_it_serves(tmp_path: Path) -> None:
    uri = f"sqlite:///{tmp_path}/mlflow.db"
    tracker = Tracker.open(uri, tmp_path / "artifacts")
    for seed in (1, 2):
        registered(tracker, tmp_path, seed)
    tracker.client.set_registered_model_alias(MODEL, "champion", "1")
    tracker.client.set_registered_model_alias(MODEL, "candidate", "2")
    canary = Canary(tuner="beetles", alias="candidate", share=0.3)
    ids = [str(number) for number in range(12)]
    with serving("beetles@champion", "--canary", "candidate=0.3", "--poll-s", "0.2", "--tracking-uri", uri) as (
        said,
        port,
        process,
    ):
        assert "beetles: " in said and "beetles@candidate: " in said
        for request_id in ids:
            found = ask(port, request_id)
            expected = ("2", "candidate") if canary.takes(request_id) else ("1", "champion")
            assert (found["version"], found["alias"]) == expected
        tracker.client.set_registered_model_alias(MODEL, "champion", "2")
        stable = next(request_id for request_id in ids if not canary.takes(request_id))
        while (found := ask(port, stable))["version"] == "1":
            time.sleep(0.05)
        assert (found["version"], found["alias"]) == ("2", "champion")
        process.send_signal(signal.SIGINT)
        out, _ = process.communicate(timeout=120)
        # Who follows the alias may still log that it moved.
        assert process.returncode == 0 and "stopped" in out.splitlines() and "Traceback" not in out


def test_what_cannot_be_served_is_one_message(tmp_path: Path) -> None:
    from typer.testing import CliRunner

    from pipelines.cli import app
    from utuning.errors import UTuningError

    lora = str(saved(tmp_path, "lora"))
    for arguments, says in (
        ([lora, "--host", "203.0.113.1"], "cannot be listened on"),
        ([lora, "--port", "0", "--max-batch", "0"], "max_batch is 0; allowed"),
        ([lora, "--port", "0", "--allow-load"], "--models FOLDER"),
        ([lora, "--port", "0", "--token-file", str(tmp_path / "no")], "token file .* cannot be read"),
        ([lora, "--port", "0", "--canary", "candidate=0.1"], "0 are served through an alias"),
        ([str(tmp_path / "a" / "b@c" / "d"), "--port", "0"], "names no bundle"),
    ):
        result = CliRunner().invoke(app, ["serve", *arguments])
        assert isinstance(result.exception, UTuningError), arguments
        with pytest.raises(UTuningError, match=says):
            raise result.exception
