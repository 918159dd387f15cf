"""Writing data sets at once or not at all, opening them, and reading them back."""

import io
import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
from PIL import Image

from utuning.data import space
from utuning.data.examples import Example
from utuning.data.shards import DatasetInfo, open_dataset, read_split, write_dataset
from utuning.data.space import require_space
from utuning.errors import DataError

NAMES = ("ant", "bee", "cat")


def png(*colour: int) -> bytes:
    buffer = io.BytesIO()
    Image.new("RGB", (4, 3), colour).save(buffer, "PNG")
    return buffer.getvalue()


def examples(per_class: int = 3) -> list[Example]:
    return [
        Example(path=f"{split}/{label}/{n}.png", label=label, split=split, data=png(s, c, n))
        for s, split in enumerate(("train", "val", "test"))
        for c, label in enumerate(NAMES)
        for n in range(per_class)
    ]


def write(to: Path, items: object = None, **options: object) -> DatasetInfo:
    chosen = examples() if items is None else items
    return write_dataset(chosen, to, name="tiny", class_names=NAMES, **options)  # type: ignore


def test_a_split_reads_back_as_it_was_written(tmp_path: Path) -> None:
    seen: list[tuple[str, int, int]] = []
    info = write(tmp_path / "d", description="Three animals.", progress=lambda *state: seen.append(state))
    assert seen == [("writing", 9, 27), ("writing", 18, 27), ("writing", 27, 27)]
    assert open_dataset(tmp_path / "d") == info
    assert dict(info.counts) == {"train": 9, "val": 9, "test": 9}
    rows = read_split(info, "val").to_pylist()
    expected = [e for e in examples() if e.split == "val"]
    assert [row["image"] for row in rows] == [{"bytes": e.data, "path": e.path} for e in expected]
    assert [NAMES[row["label"]] for row in rows] == [e.label for e in expected]
    assert sorted(p.name for p in tmp_path.iterdir()) == ["d"]


def test_shards_are_numbered_of_their_total(tmp_path: Path) -> None:
    info = write(tmp_path / "d", rows_per_shard=4)
    names = sorted(path.name for path in (tmp_path / "d" / "data").glob("train-*"))
    assert names == [f"train-{n:05d}-of-00003.parquet" for n in range(3)]
    assert read_split(info, "train").num_rows == 9


def test_large_images_start_new_groups_and_shards(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("utuning.data.parquet._GROUP_BYTES", 100)
    monkeypatch.setattr("utuning.data.parquet._SHARD_BYTES", 250)
    info = write(tmp_path / "d")
    assert len(list((tmp_path / "d" / "data").glob("train-*"))) > 1
    assert read_split(info, "train").num_rows == 9


def test_the_hugging_face_library_reads_it(tmp_path: Path) -> None:
    datasets = pytest.importorskip("datasets")
    write(tmp_path / "d", rows_per_shard=4)
    loaded = datasets.load_dataset(str(tmp_path / "d"), cache_dir=str(tmp_path / "cache"))
    assert {split: len(rows) for split, rows in loaded.items()} == dict.fromkeys(("train", "val", "test"), 9)
    assert loaded["test"].features["label"].names == list(NAMES)
    assert loaded["test"][8]["label"] == 2
    assert loaded["test"][8]["image"].getpixel((0, 0)) == (2, 2, 2)


def test_the_fingerprint_ignores_names_but_neither_content_nor_order(tmp_path: Path) -> None:
    first = write(tmp_path / "a").fingerprint
    renamed = [Example(path=f"{n}.png", label=e.label, split=e.split, data=e.data) for n, e in enumerate(examples())]
    assert write(tmp_path / "b", renamed).fingerprint == first
    # Rows of other splits between those of a split change nothing that is stored.
    by_split = sorted(examples(), key=lambda example: example.split)
    assert write(tmp_path / "c", by_split).fingerprint == first
    assert write(tmp_path / "d", examples()[1:]).fingerprint != first
    assert write(tmp_path / "e", reversed(examples())).fingerprint != first
    other_ids = write_dataset(examples(), tmp_path / "f", name="tiny", class_names=NAMES[::-1])
    assert other_ids.fingerprint != first


def test_an_equal_data_set_is_left_alone_and_another_one_refused(tmp_path: Path) -> None:
    first = write(tmp_path / "d")
    before = (tmp_path / "d" / "dataset.json").stat().st_mtime_ns
    assert write(tmp_path / "d") == first
    with pytest.raises(DataError, match=r"'tiny'.*overwrite"):
        write(tmp_path / "d", examples(2))
    assert (tmp_path / "d" / "dataset.json").stat().st_mtime_ns == before
    assert write(tmp_path / "d", examples(2), overwrite=True).counts["train"] == 6
    assert open_dataset(tmp_path / "d").counts["train"] == 6
    assert [path.name for path in tmp_path.iterdir()] == ["d"]


@pytest.mark.parametrize("overwrite", [False, True])
def test_only_data_sets_and_empty_folders_are_written_over(tmp_path: Path, overwrite: bool) -> None:
    home = tmp_path / "home"
    home.mkdir()
    (home / "thesis.tex").touch()
    with pytest.raises(DataError, match="no data set"):
        write(home, overwrite=overwrite)
    with pytest.raises(DataError, match="is a file"):
        write(home / "thesis.tex", overwrite=overwrite)
    (tmp_path / "empty").mkdir()
    assert write(tmp_path / "empty", overwrite=overwrite).counts["val"] == 9


class Stop(BaseException):
    """Stands for Ctrl-C."""


@pytest.mark.parametrize(
    ("error", "seen"),
    [(OSError(28, "No space left"), DataError), (Stop(), Stop), (ValueError(), ValueError)],
)  # fmt: skip
def test_an_error_in_the_middle_leaves_nothing(tmp_path: Path, error: BaseException, seen: type[BaseException]) -> None:
    def failing(what: str, done: int, total: int) -> None:
        if done > 5:
            raise error

    with pytest.raises(seen):
        write(tmp_path / "d", rows_per_shard=2, progress=failing)
    assert list(tmp_path.iterdir()) == []


def test_an_error_while_replacing_keeps_the_old_data_set(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    old = write(tmp_path / "d")
    rename = Path.rename

    def failing(self: Path, target: Path) -> Path:
        if ".partial-" in self.name:
            raise OSError(28, "No space left on device")
        return rename(self, target)

    monkeypatch.setattr(Path, "rename", failing)
    with pytest.raises(DataError, match="free"):
        write(tmp_path / "d", examples(2), overwrite=True)
    assert open_dataset(tmp_path / "d") == old
    assert [path.name for path in tmp_path.iterdir()] == ["d"]


_UNDER_A_LIMIT = """
import resource, sys
from pathlib import Path
from utuning.data.examples import Example
from utuning.data.shards import write_dataset
from utuning.errors import DataError
resource.setrlimit(resource.RLIMIT_FSIZE, (50_000, 50_000))
rows = (Example(path=f"{n}", label="a", split="train", data=bytes(9_000)) for n in range(20))
try:
    write_dataset(rows, Path(sys.argv[1]), name="big", class_names=["a"], rows_per_shard=10)
except DataError as error:
    print(error)
"""


def test_a_full_disk_is_reported_and_leaves_nothing(tmp_path: Path) -> None:
    done = subprocess.run(
        [sys.executable, "-c", _UNDER_A_LIMIT, str(tmp_path / "d")],
        capture_output=True, text=True, check=True,
    )  # fmt: skip
    assert "failed" in done.stdout and " free" in done.stdout and "Next: " in done.stdout
    assert done.stderr == ""
    assert list(tmp_path.iterdir()) == []


def test_required_space_is_checked_for_folders_yet_to_come(tmp_path: Path) -> None:
    require_space(tmp_path / "new" / "folder", 1)
    with pytest.raises(DataError, match=r"TiB, but only .* are free"):
        require_space(tmp_path / "new" / "folder", 1 << 60)
    assert space.human_bytes(5) == "5 B"


@pytest.mark.parametrize("kind", ["split", "label", "names", "shard size", "nothing"])
def test_bad_input_is_refused(tmp_path: Path, kind: str) -> None:
    one = {"path": "a.png", "label": "ant", "split": "train", "data": png(1, 2, 3)}
    with pytest.raises(DataError, match=r"Allowed: .*Next: "):
        if kind == "split":
            write(tmp_path / "d", [Example(**{**one, "split": "dev"})])  # type: ignore[arg-type]
        elif kind == "label":
            write(tmp_path / "d", [Example(**{**one, "label": "dog"})])  # type: ignore[arg-type]
        elif kind == "names":
            write_dataset(examples(), tmp_path / "d", name="x", class_names=["a", "a"])
        else:
            write(tmp_path / "d", [], rows_per_shard=int(kind == "nothing"))
    assert list(tmp_path.iterdir()) == []


def test_damage_is_found_on_opening(tmp_path: Path) -> None:
    folder = tmp_path / "d"
    with pytest.raises(DataError, match="does not exist"):
        open_dataset(folder)
    info = write(folder, rows_per_shard=4)
    with pytest.raises(DataError, match=r"no split 'dev'.*train, val, test"):
        read_split(info, "dev")
    shard = folder / "data" / "val-00001-of-00003.parquet"
    content = shard.read_bytes()
    shard.unlink()
    with pytest.raises(DataError, match="'val' has 2 of 3 shards"):
        open_dataset(folder)
    shard.write_bytes(content[:50])
    with pytest.raises(DataError, match=r"val-00001.*damaged"):
        open_dataset(folder)
    with pytest.raises(DataError, match="incomplete"):
        read_split(info, "val")
    os.replace(folder / "data" / "val-00002-of-00003.parquet", shard)
    (folder / "data" / "val-00002-of-00003.parquet").write_bytes(content)
    assert open_dataset(folder) == info


@pytest.mark.parametrize("text", ["{", "[]", "{}", '{"schema_version": "x"}'])
def test_bad_descriptions_are_refused(tmp_path: Path, text: str) -> None:
    write(tmp_path / "d")
    (tmp_path / "d" / "dataset.json").write_text(text)
    with pytest.raises(DataError, match="cannot be understood"):
        open_dataset(tmp_path / "d")
    assert write(tmp_path / "d", overwrite=True) == open_dataset(tmp_path / "d")


def test_a_newer_schema_and_wrong_counts_are_refused(tmp_path: Path) -> None:
    file = tmp_path / "d" / "dataset.json"
    fields = write(tmp_path / "d").as_dict()
    file.write_text(json.dumps({**fields, "schema_version": 99}))
    with pytest.raises(DataError, match="schema version 99"):
        open_dataset(tmp_path / "d")
    file.write_text(json.dumps({**fields, "counts": {"train": 10}}))
    with pytest.raises(DataError, match="9 images instead of 10"):
        open_dataset(tmp_path / "d")
    file.unlink()
    with pytest.raises(DataError, match="holds no data set"):
        open_dataset(tmp_path / "d")
