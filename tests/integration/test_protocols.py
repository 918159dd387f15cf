"""What a search is given of its data, known archives as a space's source, and test as the finals read it."""

import shutil
from dataclasses import replace
from pathlib import Path
from typing import Any

import pyarrow.parquet as pq
import pytest

from pipelines.cohorts.shared import Shared
from pipelines.data.datasets import SEARCHED, prepared, searched_splits
from pipelines.data.source_layout import check_source
from pipelines.search.finals import score_bundles
from pipelines.workflows.launch import launch
from pipelines.workspace import Workspace
from search_spaces.loader import load_space
from search_spaces.space import DatasetSpec
from tests.archives import ARCHIVES, TEST, VAL
from tests.bundles import trial
from tests.e2e.tools import COUNTS, draw_images, spoil, write_space
from tests.tools import adapter
from utuning.backbone import Backbone
from utuning.bundles.bundle import read_bundle, save_bundle
from utuning.data.info import DatasetInfo
from utuning.data.shards import read_split
from utuning.errors import DataError
from utuning.member import Member


@pytest.fixture
def images(tmp_path: Path) -> Path:
    return draw_images(tmp_path / "images")


def go(spec: DatasetSpec, tmp_path: Path, protocol: str = "vpt") -> DatasetInfo:
    return prepared(spec, Workspace(tmp_path / "runs"), protocol=protocol)


def spec(images: Path, **values: Any) -> DatasetSpec:
    return DatasetSpec(**{"name": "tiny", "source": "folder", "path": str(images), **values})


def test_a_search_is_given_no_row_of_test(images: Path, tmp_path: Path) -> None:
    info = go(spec(images), tmp_path)
    tables = searched_splits(info)
    assert {split: table.num_rows for split, table in tables.items()} == {
        split: 4 * COUNTS[split] for split in SEARCHED
    }
    bytes_of = {split: {row["bytes"] for row in read_split(info, split)["image"].to_pylist()} for split in info.counts}
    shipped = {row["bytes"] for table in tables.values() for row in table["image"].to_pylist()}
    assert shipped == bytes_of["train"] | bytes_of["val"] and shipped.isdisjoint(bytes_of["test"])


def test_a_search_does_not_look_at_the_images_and_labels_of_test(images: Path, tmp_path: Path) -> None:
    info = go(spec(images), tmp_path)
    spoil(Path(str(info.path)))
    assert searched_splits(go(spec(images), tmp_path)).keys() == set(SEARCHED)
    with pytest.raises(DataError, match="'test' cannot be read"):
        read_split(info, "test")


def test_a_worker_that_asks_for_test_is_refused() -> None:
    values = dict.fromkeys(Shared.__dataclass_fields__)
    shared = Shared(**{**values, "splits": {"train": None, "val": None}})  # type: ignore[arg-type]
    with pytest.raises(DataError, match="no split 'test'; it has train, val"):
        shared.split("test")


def test_the_bits_of_test_add_up_to_its_accuracy(backbone: Backbone, images: Path, tmp_path: Path) -> None:
    info = go(spec(images), tmp_path)
    configs = [trial(backbone, *tuners, num_classes=4) for tuners in ((), (adapter("attn"),))]
    table, names, versions = read_split(info, "test"), info.class_names, {"torch": "1"}
    bundles = []
    for at, config in enumerate(configs):
        member = Member.from_trial(backbone, config)
        folder = tmp_path / f"bundle{at}"
        save_bundle(folder, member, backbone=backbone, trial=config, class_names=names, metrics={}, versions=versions)
        bundles.append(read_bundle(folder))
    for (score, right_N), bundle in zip(score_bundles(bundles, backbone, table), bundles, strict=True):
        assert right_N.shape == (4 * COUNTS["test"],)
        assert right_N.mean() == pytest.approx(score.accuracy)
        ((alone, right_alone_N),) = score_bundles([bundle], backbone, table)
        assert alone.accuracy == score.accuracy and (right_alone_N == right_N).all()


@pytest.mark.parametrize("name", ["cub200", "flowers102"])
def test_archives_of_a_known_set_are_prepared_on_first_use_and_then_opened(name: str, tmp_path: Path) -> None:
    (tmp_path / "in").mkdir()
    archive = ARCHIVES[name](tmp_path / "in")
    wanted = DatasetSpec(name=name, source=name, path=str(archive), subset=True)  # type: ignore[arg-type]
    info = go(wanted, tmp_path)
    assert (info.reader, info.subset, info.counts["test"]) == (name, True, 3 * TEST)
    assert info.counts["val"] == (3 * VAL if name == "flowers102" else 3)
    folders = sorted((tmp_path / "runs" / "data").iterdir())
    assert go(wanted, tmp_path).path == info.path == go(wanted, tmp_path, "trainval-final").path
    assert sorted((tmp_path / "runs" / "data").iterdir()) == folders
    assert ("val" in go(wanted, tmp_path, "official").counts) == (name == "flowers102")


def test_a_part_that_is_not_declared_one_is_refused(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="--subset"):
        go(DatasetSpec(name="birds", source="cub200", path=str(ARCHIVES["cub200"](tmp_path))), tmp_path)


def test_parquet_files_of_others_are_prepared_and_prepared_ones_opened(images: Path, tmp_path: Path) -> None:
    info = go(spec(images), tmp_path)
    assert go(spec(Path(str(info.path)), source="parquet"), tmp_path).path == info.path
    (tmp_path / "hub").mkdir()
    for split in ("train", "test"):
        pq.write_table(read_split(info, split), tmp_path / "hub" / f"{split}-00000-of-00001.parquet")
    made = go(spec(tmp_path / "hub", source="parquet"), tmp_path)
    assert (made.reader, made.counts["test"], made.class_names) == ("parquet", info.counts["test"], info.class_names)


def test_a_data_set_without_val_is_refused_before_ray_starts(
    images: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from pipelines.workflows import launch as module

    info = go(spec(images), tmp_path)
    file = Path(str(info.path)) / "dataset.json"
    file.write_text(file.read_text().replace('"val":', '"dev":', 1))
    space = write_space(
        tmp_path / "tiny.yaml", images, dataset={"name": "tiny", "source": "parquet", "path": str(info.path)}
    )

    def started(*_: object, **__: object) -> None:
        raise AssertionError("Ray was started")

    monkeypatch.setattr(module, "starting_crew", started)
    with pytest.raises(DataError, match=r"has no val.*prepare it with protocol vpt"):
        launch(str(space), (), None, profile=None, workspace=Workspace(tmp_path / "runs"))  # type: ignore[arg-type]


def test_images_without_val_are_refused_before_they_are_prepared_by_the_protocol_that_draws_none(
    images: Path, tmp_path: Path
) -> None:
    hub = tmp_path / "hub"
    hub.mkdir()
    for split in ("train", "test"):
        pq.write_table(read_split(go(spec(images), tmp_path), split), hub / f"{split}-00000-of-00001.parquet")
    shutil.rmtree(images / "val")
    sources: list[dict[str, Any]] = [
        {"source": "folder", "path": str(images)},
        {"source": "lists", "path": str(images), "lists": {"train": "train.txt", "test": "test.txt"}},
        {"source": "parquet", "path": str(hub)},
        {"source": "cub200", "path": str(tmp_path / "never read")},
    ]
    space = load_space("demo")
    for given in sources:
        named = replace(space, dataset=DatasetSpec(name="tiny", **given), protocol="official")
        check_source(replace(named, protocol="vpt"))
        with pytest.raises(DataError, match=r"'tiny'.*comes without val.*set protocol: vpt"):
            check_source(named)
    (images / "validation").mkdir()
    (hub / "dev.parquet").touch()
    for given in (sources[0], {**sources[1], "lists": {"val": "v.txt"}}, sources[2], {"source": "flowers102"}):
        check_source(replace(space, dataset=DatasetSpec(name="tiny", **given), protocol="official"))
