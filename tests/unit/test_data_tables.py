"""Parquet files of others: columns, labels and splits as they name them."""

import io
import json
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from PIL import Image

from utuning.data.info import DatasetInfo
from utuning.data.prepare import Known, prepare
from utuning.data.shards import read_split
from utuning.data.tables import table_examples
from utuning.errors import DataError

STRUCT = pa.struct([("bytes", pa.binary()), ("path", pa.string())])
NAMES = ["zebra", "ant"]


def png(number: int) -> bytes:
    buffer = io.BytesIO()
    Image.new("RGB", (3, 2), (number, 9, 9)).save(buffer, "PNG")
    return buffer.getvalue()


def table(first: int, *, names: list[str] | None = NAMES, image: str = "image", label: str = "label",
          plain: bool = False) -> pa.Table:  # fmt: skip
    images = [png(first + n) for n in range(4)]
    column = pa.array(images) if plain else pa.array([{"bytes": b, "path": None} for b in images], STRUCT)
    features = {image: {"_type": "Image"}, label: {"_type": "ClassLabel", "names": names}}
    metadata = {"huggingface": json.dumps({"info": {"features": features}})} if names else None
    return pa.table({image: column, label: pa.array([0, 1, 1, 0])}).replace_schema_metadata(metadata)


def write(root: Path, **tables: pa.Table) -> Path:
    for name, content in tables.items():
        file = root / f"{name.replace('__', '/')}-00000-of-00001.parquet"
        file.parent.mkdir(parents=True, exist_ok=True)
        pq.write_table(content, file, row_group_size=3)
    return root


def go(root: Path, to: Path, **options: str) -> DatasetInfo:
    images, names = table_examples(root, **options)
    return prepare(images, to, name="t", known=Known(reader="parquet", class_names=names))


LAYOUTS = [
    ("train", "validation", "test"), ("data__train", "data__val", "data__test"), ("train__0", "dev__0", "test__0"),
]  # fmt: skip


@pytest.mark.parametrize("layout", LAYOUTS)
def test_hugging_face_files_are_read_with_their_splits_and_names(tmp_path: Path, layout: tuple[str, ...]) -> None:
    root = write(tmp_path / "in", **{name: table(10 * at) for at, name in enumerate(layout)})
    info = go(root, tmp_path / "out")
    assert info.class_names == ("zebra", "ant")
    assert dict(info.counts) == {"train": 4, "val": 4, "test": 4}
    rows = read_split(info, "val")
    assert rows["label"].to_pylist() == [0, 1, 1, 0]
    assert [image["bytes"] for image in rows["image"].to_pylist()] == [png(10 + n) for n in range(4)]


def test_a_prepared_data_set_prepares_to_itself(tmp_path: Path) -> None:
    first = go(write(tmp_path / "in", train=table(0), test=table(10)), tmp_path / "a")
    assert go(tmp_path / "a", tmp_path / "b").fingerprint == first.fingerprint


def test_plain_bytes_numbers_and_texts(tmp_path: Path) -> None:
    plain = {split: table(10 * at, names=None, plain=True) for at, split in enumerate(("train", "test"))}
    assert go(write(tmp_path / "n", **plain), tmp_path / "out_n").class_names == ("0", "1")
    texts = {split: t.set_column(1, "label", pa.array(["b", "a", "a", "b"])) for split, t in plain.items()}
    assert go(write(tmp_path / "t", **texts), tmp_path / "out_t").class_names == ("a", "b")


def test_one_file_alone_is_train(tmp_path: Path) -> None:
    pq.write_table(table(0), tmp_path / "photos.parquet")
    images, _ = table_examples(tmp_path / "photos.parquet")
    assert [image.split for image in images] == ["train"] * 4
    assert [image.data for image in images] == [png(n) for n in range(4)]


def test_images_beside_the_file_are_read_and_others_refused(tmp_path: Path) -> None:
    (tmp_path / "a.png").write_bytes(png(1))
    for name, says in (("a.png", None), ("../a.png", "stay below"), ("b.png", "cannot be read")):
        rows = pa.table({"image": pa.array([{"bytes": None, "path": name}], STRUCT), "label": ["x"]})
        pq.write_table(rows, tmp_path / "train.parquet")
        ((image,), _) = table_examples(tmp_path)
        if says is None:
            assert image.data == png(1)
        else:
            with pytest.raises(DataError, match=says):
                _ = image.data


def test_unclear_columns_are_named_and_can_be_chosen(tmp_path: Path) -> None:
    both = table(0).append_column("coarse", pa.array([0, 0, 0, 0])).rename_columns(["photo", "kind", "coarse"])
    root = write(tmp_path, train=both.replace_schema_metadata(None))
    with pytest.raises(DataError, match=r"'photo', 'kind', 'coarse'; which one is the label .*--label-column"):
        table_examples(root)
    images, names = table_examples(root, label="kind")
    assert names == ["0", "1"] and [image.label for image in images] == ["0", "1", "1", "0"]
    with pytest.raises(DataError, match="no column 'sort'"):
        table_examples(root, label="sort")


@pytest.mark.parametrize("label", [-1, 2, None])
def test_labels_without_a_name_are_refused(tmp_path: Path, label: int | None) -> None:
    odd = table(0)
    odd = odd.set_column(1, "label", pa.array([0, 1, label, 0])).replace_schema_metadata(odd.schema.metadata)
    with pytest.raises(DataError, match=rf"has the label {label}"):
        table_examples(write(tmp_path, train=odd))


def test_no_files_and_damaged_files_are_named(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="no Parquet file"):
        table_examples(tmp_path)
    (tmp_path / "train.parquet").write_bytes(b"PAR1")
    with pytest.raises(DataError, match=r"train\.parquet' is damaged"):
        table_examples(tmp_path)
