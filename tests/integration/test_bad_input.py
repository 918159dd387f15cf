"""Bad input at the command line: one message, which says what to do; nothing half-written."""

import sys
from collections.abc import Iterator
from contextlib import nullcontext
from pathlib import Path
from typing import Any

import pytest

from cluster.profile import load_profile
from pipelines import cli
from pipelines.cohorts.crew import starting_crew
from pipelines.workspace import Workspace
from tests.e2e.tools import draw_images, write_space


@pytest.fixture(scope="module")
def crew_for(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Any]:
    """Ray and the service, which would start anew for each search that ends before it begins."""
    workspace = Workspace(tmp_path_factory.mktemp("crew"))
    with starting_crew(load_profile("local"), workspace, isolated=False) as crew_for:
        yield crew_for


@pytest.fixture(scope="module")
def images(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return draw_images(tmp_path_factory.mktemp("images") / "images")


def run(capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch, *arguments: str) -> tuple[int, str]:
    """Exit code and what was said on stderr."""
    monkeypatch.setattr(sys, "argv", ["utuning", *arguments])
    with pytest.raises(SystemExit) as exit:
        cli.main()
    return int(exit.value.code or 0), capsys.readouterr().err


def test_no_space_on_the_disk_is_said_before_anything_is_written(
    images: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """The first here, while Ray is not there yet: nothing that starts with it may write either."""
    monkeypatch.setattr("pipelines.planning.plan.MIN_FREE_BYTES", 10**18)
    space = write_space(tmp_path / "tiny.yaml", images)
    code, said = run(capsys, monkeypatch, "search", str(space), "--home", str(tmp_path / "runs"))
    assert code == 1
    assert "free" in said
    assert not (tmp_path / "runs").exists()


CASES: dict[str, tuple[list[str], str]] = {
    "an unknown key": (["budget.num_trails=3"], "did you mean 'num_trials'"),
    "a wrong type": (["train.epochs=two"], "train.epochs: given 'two'"),
    "an empty choice": (["tuners.0.ops={choice: []}"], "offers nothing"),
    "an op kind that is not there": (["tuners.0.ops=[conv]"], "op kind 'conv' matches no site"),
    "a depth that is not there": (["tuners.0.depths=[7]"], "blocks 0 to 1"),
    "a choice with one bad depth": (["tuners.0.depths={choice: [all, 'last:9']}"], "'last:9'"),
    "images smaller than any backbone reads": (["dataset.shorter_side=8"], "dataset.shorter_side: shorter_side is 8"),
    "missing data": (["dataset.path=nowhere"], "nowhere"),
    "missing weights": (["backbone.weights=gone.safetensors"], "no readable .safetensors file"),
    "an unknown model": (["backbone.name=vit_tinny_patch16_224"], "close ones"),
    "a model without known sites": (
        ["backbone.name=test_byobnet", "backbone.img_size=null", "backbone.options={}"],
        "ByobNet",
    ),
}


@pytest.mark.parametrize("name", CASES)
def test_a_space_that_cannot_work_is_refused_before_anything_runs(
    name: str,
    images: Path,
    crew_for: Any,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    overrides, says = CASES[name]
    monkeypatch.setattr("pipelines.workflows.launch.starting_crew", lambda *given, **named: nullcontext(crew_for))
    space = write_space(tmp_path / "tiny.yaml", images)
    code, said = run(capsys, monkeypatch, "search", str(space), *overrides, "--home", str(tmp_path / "runs"))
    assert code == 1
    assert says in said
    assert "Traceback" not in said
    assert not (tmp_path / "runs" / "mlflow.db").exists()


def test_a_corrupt_image_is_named_or_skipped_and_counted(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    images = draw_images(tmp_path / "images")
    (images / "train" / "blue" / "0.jpg").write_bytes(b"no image")
    space = write_space(tmp_path / "tiny.yaml", images)
    home = ["--home", str(tmp_path / "runs")]
    code, said = run(capsys, monkeypatch, "plan", str(space), *home)
    assert code == 1
    assert "train/blue/0.jpg" in said
    assert not list((tmp_path / "runs").rglob("*.parquet"))
    monkeypatch.setattr(sys, "argv", ["utuning", "plan", str(space), "dataset.skip_corrupt=true", *home])
    with pytest.raises(SystemExit) as exit:
        cli.main()
    assert exit.value.code == 0
    assert "1 corrupt images were skipped" in capsys.readouterr().out


def test_a_class_in_one_split_only_is_named(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    images = draw_images(tmp_path / "images")
    (images / "test" / "blue").rename(images / "test" / "mauve")
    space = write_space(tmp_path / "tiny.yaml", images)
    code, said = run(capsys, monkeypatch, "plan", str(space), "--home", str(tmp_path / "runs"))
    assert code == 1
    assert "mauve" in said


@pytest.mark.parametrize(
    ("uri", "says"), [("http://127.0.0.1:9", "cannot be used"), ("file:runs", "no longer writes runs to folders")]
)
def test_a_store_that_cannot_be_reached(
    uri: str, says: str, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    code, said = run(capsys, monkeypatch, "leaderboard", "demo", "--tracking-uri", uri, "--home", str(tmp_path))
    assert code == 1
    assert says in said


def test_what_was_never_searched_cannot_be_pulled_or_compared(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    for arguments in (["pull", "demo", "--to", str(tmp_path / "x")], ["leaderboard", "demo"]):
        code, said = run(capsys, monkeypatch, *arguments, "--home", str(tmp_path / "runs"))
        assert code == 1
        assert "utuning search" in said
        assert not (tmp_path / "x").exists()


def test_train_wants_every_value_fixed(
    images: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    space = write_space(tmp_path / "tiny.yaml", images)
    code, said = run(capsys, monkeypatch, "train", str(space), "--home", str(tmp_path / "runs"))
    assert code == 1
    assert "still searched: train.lr" in said
