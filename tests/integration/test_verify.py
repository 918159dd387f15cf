"""`utuning verify` through the real command line: the sound, the wrong, and the same scores from the same data."""

import json
from pathlib import Path

import pytest
from safetensors.torch import save_file

from pipelines.data.datasets import prepare_source
from pipelines.deployment.verify import Wrong, compared
from tests.bundles import retensor, trained, trial
from tests.e2e.tools import NOWHERE, draw_images, utuning_here
from tests.tools import TINY, adapter, tiny_backbone
from utuning.backbone import Backbone
from utuning.bundles.bundle import MANIFEST, TENSORS, add_metrics, read_bundle, save_bundle
from utuning.cohort import Cohort, Score
from utuning.data.info import DatasetInfo
from utuning.data.loader import Loader
from utuning.data.shards import read_split


@pytest.fixture(scope="module")
def images(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return draw_images(tmp_path_factory.mktemp("images") / "images")


@pytest.fixture(scope="module")
def data(images: Path, tmp_path_factory: pytest.TempPathFactory) -> DatasetInfo:
    to = tmp_path_factory.mktemp("prepared") / "discs"
    return prepare_source("folder", images, str(to), name="discs")


@pytest.fixture
def bundle(data: DatasetInfo, tmp_path: Path) -> Path:
    """A tuner that was trained on the discs, as far as its bundle says, with its real accuracy on val."""
    weights = tmp_path / "vit.safetensors"
    save_file(tiny_backbone().trunk.model.state_dict(), weights)
    backbone = Backbone.load("vit_tiny_patch16_224", weights=str(weights), img_size=32, options=TINY)
    facts = {"dataset": "discs", "data_fingerprint": data.fingerprint, "num_classes": len(data.class_names)}
    config = trial(backbone, adapter("attn"), **facts)
    member = trained(backbone, config)
    loader = Loader(read_split(data, "val"), backbone.preprocessing, global_batch_size=8, train=False)
    (score,) = Cohort(backbone, [member]).evaluate(loader.epoch(0))
    metrics = {"val/accuracy": score.accuracy}
    return save_bundle(
        tmp_path / "bundle", member, backbone=backbone, trial=config, class_names=data.class_names, metrics=metrics,
        versions={},
    )  # fmt: skip


def verify(*arguments: object) -> tuple[int, list[str]]:
    done = utuning_here(NOWHERE, "verify", *arguments)
    return done.returncode, done.stdout.strip().splitlines()


def test_a_sound_bundle_scores_what_it_says(bundle: Path, data: DatasetInfo) -> None:
    code, lines = verify(bundle, "--data", data.path)
    assert code == 0
    assert [line.split()[:2] for line in lines] == [
        ["ok", name] for name in ("files", "manifest", "tensors", "backbone", "fit", "probe", "data", "val", "test")
    ]
    stated = json.loads((bundle / MANIFEST).read_text())["metrics"]["val/accuracy"]
    assert f"accuracy stated {stated:.4f}, now {stated:.4f}: equal, on 16 images" in lines[-2]
    assert "the bundle states none" in lines[-1]


def test_a_test_score_that_was_stated_later_is_compared_too(bundle: Path, data: DatasetInfo) -> None:
    read = read_bundle(bundle)
    backbone = read.load_backbone()
    loader = Loader(read_split(data, "test"), backbone.preprocessing, global_batch_size=8, train=False)
    (score,) = Cohort(backbone, [read.member(backbone)]).evaluate(loader.epoch(0))
    stated = add_metrics(read, {"test/accuracy": score.accuracy})
    code, lines = verify(bundle, "--data", data.path)
    assert code == 0 and f"stated {score.accuracy:.4f}, now {score.accuracy:.4f}: equal" in lines[-1]
    add_metrics(stated, {"test/accuracy": 1 - score.accuracy if score.accuracy != 0.5 else 0.0})
    code, lines = verify(bundle, "--data", data.path)
    assert (code, lines[-1].split()[:2]) == (1, ["wrong", "test"])


def test_the_folder_of_images_does_as_well_as_what_was_prepared_from_it(bundle: Path, images: Path) -> None:
    code, lines = verify(bundle, "--data", images)
    assert code == 0
    assert ": equal, on 16 images" in lines[-2]


def test_weights_that_lie_elsewhere_are_named(bundle: Path, tmp_path: Path) -> None:
    moved = (tmp_path / "vit.safetensors").rename(tmp_path / "moved.safetensors")
    code, lines = verify(bundle)
    assert (code, lines[-1].split()[:2]) == (1, ["wrong", "backbone"])
    assert "give a path to one" in lines[-1]
    code, lines = verify(bundle, "--weights", moved)
    assert (code, len(lines)) == (0, 6)
    save_file(tiny_backbone(seed=1).trunk.model.state_dict(), moved)
    code, lines = verify(bundle, "--weights", moved)
    assert (code, lines[-1].split()[:2]) == (1, ["wrong", "backbone"])
    assert "but this backbone is" in lines[-1]


def test_what_is_wrong_is_said_and_nothing_that_rests_on_it_is_tried(bundle: Path, tmp_path: Path) -> None:
    code, lines = verify(tmp_path / "nowhere")
    assert (code, len(lines)) == (1, 1)
    assert "there is no such folder" in lines[0]
    retensor(bundle, lambda tensors: tensors["head.weight"].neg_())
    code, lines = verify(bundle)
    assert (code, [line.split()[0] for line in lines]) == (1, ["ok"] * 5 + ["wrong"])
    assert "answers its probe images otherwise" in lines[-1]
    (bundle / TENSORS).write_bytes(b"")
    code, lines = verify(bundle)
    assert (code, len(lines)) == (1, 1)


def test_other_data_is_refused_with_both_fingerprints(bundle: Path, data: DatasetInfo, tmp_path: Path) -> None:
    images = draw_images(tmp_path / "images")
    next((images / "val" / "blue").iterdir()).unlink()
    code, lines = verify(bundle, "--data", images)
    assert (code, lines[-1].split()[:2]) == (1, ["wrong", "data"])
    assert data.fingerprint[:16] in lines[-1]


def test_equal_close_and_not_equal() -> None:
    score = Score(loss=1.0, accuracy=0.5, count=1000)
    assert compared(0.5, score).endswith("equal, on 1000 images")
    assert "3 of 1000 images differ" in compared(0.503, score)
    with pytest.raises(Wrong, match=r"stated 0\.5100, now 0\.5000: not equal, 10 of 1000 images"):
        compared(0.51, score)
