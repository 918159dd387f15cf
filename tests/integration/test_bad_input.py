"""Bad input at the command line: one message, which says what to do; nothing half-written."""

from functools import partial
from pathlib import Path

import pytest

from pipelines.cohorts.crew import starting_crew
from tests.e2e.tools import draw_images, utuning_here, write_space


@pytest.fixture(scope="module")
def images(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return draw_images(tmp_path_factory.mktemp("images") / "images")


def run(home: Path, *arguments: str) -> tuple[int, str]:
    """Exit code and what was said on stderr."""
    done = utuning_here(home, *arguments)
    return done.returncode, done.stderr


def test_no_space_on_the_disk_is_said_before_anything_is_written(
    images: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The first here, while Ray is not there yet: nothing that starts with it may write either."""
    monkeypatch.setattr("pipelines.planning.plan.MIN_FREE_BYTES", 10**18)
    space = write_space(tmp_path / "tiny.yaml", images)
    code, said = run(tmp_path / "runs", "search", str(space))
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
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    overrides, says = CASES[name]
    # Ray would start anew for each of these, and end before it is needed: a search that is resumed starts it later.
    later = partial(starting_crew, isolated=False, resume=True)
    monkeypatch.setattr("pipelines.workflows.launch.starting_crew", lambda profile, home, **_: later(profile, home))
    space = write_space(tmp_path / "tiny.yaml", images)
    code, said = run(tmp_path / "runs", "search", str(space), *overrides)
    assert code == 1
    assert says in said
    assert not (tmp_path / "runs" / "mlflow.db").exists()


def test_a_corrupt_image_is_named_or_skipped_and_counted(tmp_path: Path) -> None:
    images = draw_images(tmp_path / "images")
    (images / "train" / "blue" / "0.jpg").write_bytes(b"no image")
    space = write_space(tmp_path / "tiny.yaml", images)
    code, said = run(tmp_path / "runs", "plan", str(space))
    assert code == 1
    assert "train/blue/0.jpg" in said
    assert not list((tmp_path / "runs").rglob("*.parquet"))
    done = utuning_here(tmp_path / "runs", "plan", space, "dataset.skip_corrupt=true")
    assert done.returncode == 0
    assert "1 corrupt images were skipped" in done.stdout


def test_a_class_in_one_split_only_is_named(tmp_path: Path) -> None:
    images = draw_images(tmp_path / "images")
    (images / "test" / "blue").rename(images / "test" / "mauve")
    space = write_space(tmp_path / "tiny.yaml", images)
    code, said = run(tmp_path / "runs", "plan", str(space))
    assert code == 1
    assert "mauve" in said


@pytest.mark.parametrize(
    ("uri", "says"), [("http://127.0.0.1:9", "cannot be used"), ("file:runs", "no longer writes runs to folders")]
)
def test_a_store_that_cannot_be_reached(uri: str, says: str, tmp_path: Path) -> None:
    code, said = run(tmp_path, "leaderboard", "demo", "--tracking-uri", uri)
    assert code == 1
    assert says in said


def test_what_was_never_searched_cannot_be_pulled_or_compared(tmp_path: Path) -> None:
    for arguments in (["pull", "demo", "--to", str(tmp_path / "x")], ["leaderboard", "demo"]):
        code, said = run(tmp_path / "runs", *arguments)
        assert code == 1
        assert "utuning search" in said
        assert not (tmp_path / "x").exists()


def test_train_wants_every_value_fixed(images: Path, tmp_path: Path) -> None:
    space = write_space(tmp_path / "tiny.yaml", images)
    code, said = run(tmp_path / "runs", "train", str(space))
    assert code == 1
    assert "still searched: train.lr" in said
