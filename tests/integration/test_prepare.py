"""`utuning prepare` as a user calls it: archives in, a data set out, whatever dies in between; on disk and in S3."""

import json
import os
import re
import signal
import subprocess
import sys
from collections.abc import Generator, Iterator
from contextlib import closing
from dataclasses import replace
from pathlib import Path

import pytest
from PIL import Image

from pipelines.cli import app, run_reporting_errors
from pipelines.data.datasets import prepared
from pipelines.workspace import Workspace
from search_spaces.space import DatasetSpec
from tests.archives import ARCHIVES, cub200, cub200_files, tar
from tests.e2e.tools import draw_images
from utuning.data.decode import decode_rgb
from utuning.data.fgvc.table import READERS
from utuning.data.info import INFO_FILE
from utuning.data.known import prepare_known
from utuning.data.places import Place
from utuning.data.rows import TableRows
from utuning.data.shards import open_dataset, read_split
from utuning.data.stored import SplitRef
from utuning.errors import DataError


def call(monkeypatch: pytest.MonkeyPatch, *words: str) -> object:
    monkeypatch.setattr(sys, "argv", ["utuning", *words])
    with pytest.raises(SystemExit) as done:
        run_reporting_errors(app)
    return done.value.code


def test_a_known_set_is_prepared_by_name(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    source, to = str(cub200(tmp_path)), str(tmp_path / "out")
    assert call(monkeypatch, "prepare", "cub200", "--from", source, "--to", to) == 1
    assert "12 train images instead of 5,994" in capsys.readouterr().err
    assert call(monkeypatch, "prepare", "cub200", "--from", source, "--to", to, "--subset") == 0
    told = capsys.readouterr().out
    info = open_dataset(to)
    assert "3 val, 9 test images of 3 classes, a subset" in " ".join(told.split())
    assert info.fingerprint in told and "val: 0.1 of train, stratified, seed 0" in told
    assert json.loads((tmp_path / "out" / INFO_FILE).read_text())["subset"] is True


def test_larger_images_are_stored_smaller_if_that_is_asked_for(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    words = ["prepare", "--from", str(draw_images(tmp_path / "photos")), "--to", str(tmp_path / "out")]
    assert call(monkeypatch, *words, "--shorter-side", "31") == 1
    assert "Allowed: 32 pixels or more" in capsys.readouterr().err
    assert not (tmp_path / "out").exists()
    assert call(monkeypatch, *words, "--shorter-side", "32") == 0
    assert "images: shorter side at most 32 px, JPEG quality 95" in capsys.readouterr().out
    assert open_dataset(tmp_path / "out").shorter_side == 32
    rows = read_split(open_dataset(tmp_path / "out"), "train")["image"].to_pylist()
    assert {decode_rgb(row["bytes"]).size for row in rows} <= {(35, 32), (40, 36)}


def test_a_space_can_ask_for_smaller_images_too(tmp_path: Path) -> None:
    photos = draw_images(tmp_path / "photos")
    Image.effect_noise((120, 90), 64).convert("RGB").save(next(photos.rglob("train/*/*.jpg")))
    spec = DatasetSpec(name="toy", source="folder", path=str(photos), shorter_side=32)
    info = prepared(spec, Workspace(tmp_path / "runs"))
    assert info.shorter_side == 32
    assert prepared(replace(spec, shorter_side=None), Workspace(tmp_path / "runs")).fingerprint != info.fingerprint
    stored = replace(spec, source="parquet", path=str(info.path))
    for wanted in (None, 32):
        assert prepared(replace(stored, shorter_side=wanted), Workspace(tmp_path / "runs")) == info
    with pytest.raises(DataError, match=r"dataset\.shorter_side is 64.*at most 32 px.*--shorter-side 64"):
        prepared(replace(stored, shorter_side=64), Workspace(tmp_path / "runs"))


def test_the_help_names_every_reader_and_where_its_archive_comes_from(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    assert call(monkeypatch, "prepare", "--help") == 0
    told = re.sub(r"[\s│]+", "", capsys.readouterr().out)
    for row in READERS.values():
        assert row.name + ":" + row.title.replace(" ", "") in told
        assert (re.sub(r"\s", "", row.about) in told and "https://" in row.about) or "http://" in row.about


@pytest.mark.parametrize(
    ("words", "says"),
    [
        (["cub20"], "did you mean 'cub200'"),
        (["cub200", "--protocol", "vtp"], "did you mean 'vpt'"),
        (["cub200"], "does not exist"),
        (["parquet"], "does not exist"),
        (["folder", "--subset"], "--subset is not for the reader 'folder'; it is for cub200"),
        (["cub200", "--list", "train=a.txt"], "--list is not for the reader 'cub200'; it is for folder"),
        (["folder", "--classes", "names.csv"], "give --list SPLIT=FILE too"),
        (["cub200", "--from", "s3://bucket/CUB_200_2011.tgz"], "copy the archive here first"),
    ],
)
def test_bad_calls_are_named(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], words: list[str], says: str
) -> None:
    paths = ["--from", str(tmp_path / "gone"), "--to", str(tmp_path / "out")]
    assert call(monkeypatch, "prepare", *paths, *words) == 1
    assert says in capsys.readouterr().err
    assert list(tmp_path.iterdir()) == []


_UNTIL_KILLED = """
import sys
from pathlib import Path
from utuning.data import shards
from utuning.data.fgvc.table import READERS
from utuning.data.known import prepare_known
real = shards.cut_shards
shards.cut_shards = lambda rows, size: real(rows, 2)
def progress(what, done, total):
    print(what, done, flush=True)
    if what == sys.argv[3] and done >= int(sys.argv[4]):
        sys.stdin.read()
prepare_known(READERS["cub200"], Path(sys.argv[1]), Path(sys.argv[2]), subset=True, progress=progress)
"""


def killed(source: Path, to: Path, what: str, done: int) -> None:
    """Prepare in another process, and kill it at a point."""
    command = [sys.executable, "-c", _UNTIL_KILLED, str(source), str(to), what, str(done)]
    process = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
    assert process.stdout is not None
    for line in process.stdout:
        if line.split() == [what, str(done)]:
            break
    process.send_signal(signal.SIGKILL)
    assert process.wait() == -signal.SIGKILL


@pytest.mark.parametrize(("what", "done"), [("checking", 9), ("writing", 6)])
def test_a_killed_preparation_goes_on(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, what: str, done: int) -> None:
    source, to = cub200(tmp_path), tmp_path / "out"
    whole = prepare_known(READERS["cub200"], source, tmp_path / "whole", subset=True)
    killed(source, to, what, done)
    assert not to.exists()
    with pytest.raises(DataError, match="does not exist"):
        open_dataset(to)

    checked, written = [], []
    from utuning.data import checking, parquet, shards

    real_decode, real_cut, real_write = checking.decode_rgb, shards.cut_shards, parquet.write_shard
    monkeypatch.setattr(checking, "decode_rgb", lambda *args: checked.append(1) or real_decode(*args))
    monkeypatch.setattr(shards, "cut_shards", lambda rows, size: real_cut(rows, 2))
    monkeypatch.setattr(shards, "write_shard", lambda *args: written.append(1) or real_write(*args))
    info = prepare_known(READERS["cub200"], source, to, subset=True)
    assert len(checked) == (21 - done if what == "checking" else 0)
    # Of three shards of two rows, the last was not closed yet when it died.
    assert len(written) == (12 if what == "checking" else 12 - 2)
    assert info.fingerprint == whole.fingerprint
    assert sorted(path.name for path in tmp_path.iterdir()) == ["CUB_200_2011.tgz", "out", "whole"]
    for split in info.counts:
        assert read_split(info, split).equals(read_split(whole, split))


def test_an_image_that_changes_meanwhile_is_noticed(tmp_path: Path) -> None:
    from tests.archives import loose, photo

    folder = loose(tmp_path / "in", cub200_files())
    victim = next(folder.rglob("*_0001_*.jpg"))

    def change(what: str, done: int, total: int) -> None:
        if what == "checking" and done == total:
            victim.write_bytes(photo(999))

    with pytest.raises(DataError, match="changed while it was prepared"):
        prepare_known(READERS["cub200"], folder, tmp_path / "out", subset=True, progress=change)
    assert [path.name for path in tmp_path.iterdir()] == ["in"]


def test_two_at_once_make_one_data_set(tmp_path: Path) -> None:
    source = cub200(tmp_path)
    code = (
        "import sys; from pathlib import Path; from utuning.data.fgvc.table import READERS; "
        "from utuning.data.known import prepare_known; "
        "prepare_known(READERS['cub200'], Path(sys.argv[1]), Path(sys.argv[2]), subset=True)"
    )
    command = [sys.executable, "-c", code, str(source), str(tmp_path / "out")]
    both = [subprocess.Popen(command) for _ in range(2)]
    assert [process.wait() for process in both] == [0, 0]
    assert sorted(path.name for path in tmp_path.iterdir()) == ["CUB_200_2011.tgz", "out"]
    assert sum(open_dataset(tmp_path / "out").counts.values()) == 21


@pytest.fixture(scope="module")
def s3() -> Iterator[str]:
    """A real S3 server on loopback; yields what a URI of it ends with."""
    from moto.server import ThreadedMotoServer

    names = {"AWS_ACCESS_KEY_ID": "x", "AWS_SECRET_ACCESS_KEY": "x", "AWS_EC2_METADATA_DISABLED": "true"}
    with pytest.MonkeyPatch.context() as patch:
        for name, value in names.items():
            patch.setenv(name, value)
        server = ThreadedMotoServer(ip_address="127.0.0.1", port=0, verbose=False)
        server.start()
        host, port = server.get_host_and_port()
        yield f"?endpoint_override={host}:{port}&scheme=http&region=us-east-1&allow_bucket_creation=true"
        server.stop()


@pytest.fixture
def bucket(s3: str, request: pytest.FixtureRequest) -> Place:
    name = re.sub(r"[^a-z]+", "-", request.node.name.lower())[:50].strip("-")
    place = Place.of(f"s3://{name}/sets/cub{s3}")
    place.filesystem.create_dir(name)
    return place


def test_an_object_store_holds_the_same_data_set(tmp_path: Path, bucket: Place) -> None:
    source = ARCHIVES["cub200"](tmp_path)
    here = prepare_known(READERS["cub200"], source, tmp_path / "here", subset=True)
    there = prepare_known(READERS["cub200"], source, bucket, subset=True, work=tmp_path / "work")
    assert there.fingerprint == here.fingerprint
    assert open_dataset(bucket.uri) == there
    for split in here.counts:
        assert read_split(there, split).equals(read_split(here, split), check_metadata=False)
    assert prepare_known(READERS["cub200"], source, bucket, subset=True, work=tmp_path / "work") == there
    assert list((tmp_path / "work").iterdir()) == []


def test_large_splits_of_an_object_store_are_copied_once_and_read_row_by_row(tmp_path: Path, bucket: Place) -> None:
    source = ARCHIVES["cub200"](tmp_path)
    info = prepare_known(READERS["cub200"], source, bucket, subset=True, work=tmp_path / "work")
    named = SplitRef(place=bucket.uri, split="train", fingerprint=info.fingerprint)
    expected = TableRows(read_split(info, "train"))
    for _ in range(2):
        rows = named.open(tmp_path / "cache")
        assert rows.labels.tolist() == expected.labels.tolist()
        assert all(rows.image(n)[0] == expected.image(n)[0] for n in range(len(rows.labels)))
        (copy,) = (tmp_path / "cache").rglob("*.parquet")
        os.utime(copy, ns=(1, 1))
    assert copy.stat().st_mtime_ns == 1


def test_an_upload_that_breaks_off_is_no_data_set_and_goes_on(
    tmp_path: Path, bucket: Place, monkeypatch: pytest.MonkeyPatch
) -> None:
    from utuning.data import parquet, shards

    monkeypatch.setattr(parquet, "_GROUP_ROWS", 1)
    source = ARCHIVES["cub200"](tmp_path)
    real_cut, real_write = shards.cut_shards, shards.write_shard
    monkeypatch.setattr(shards, "cut_shards", lambda rows, size: real_cut(rows, 4))
    written: list[str] = []

    def breaks(place: Place, shard: object, *rest: object) -> Generator[int]:
        with closing(real_write(place, shard, *rest)) as steps:  # type: ignore[arg-type]
            for step in steps:
                if len(written) == 1:
                    raise ConnectionResetError("the network is gone")
                yield step
        written.append("one")

    monkeypatch.setattr(shards, "write_shard", breaks)
    with pytest.raises(DataError, match=r"network is gone.*no data set yet.*call again"):
        prepare_known(READERS["cub200"], source, bucket, subset=True, work=tmp_path / "work")
    assert INFO_FILE not in bucket.files()
    with pytest.raises(DataError, match="holds no data set"):
        open_dataset(bucket)
    assert len(list((tmp_path / "work").iterdir())) == 2  # to go on from

    monkeypatch.setattr(shards, "write_shard", lambda *args: written.append("more") or real_write(*args))
    info = prepare_known(READERS["cub200"], source, bucket, subset=True, work=tmp_path / "work")
    # The first shard is kept; of the second, a row of four was there, with a footer.
    assert written.count("more") == len([name for name in bucket.files() if name.startswith("data/")]) - 1
    assert open_dataset(bucket) == info
    assert list((tmp_path / "work").iterdir()) == []


def test_object_stores_are_overwritten_only_where_a_data_set_is(tmp_path: Path, bucket: Place) -> None:
    files = cub200_files()
    first, other = tar(tmp_path / "a.tar", files), tar(tmp_path / "b.tar", _without_a_class(files))
    work = tmp_path / "work"
    bucket.write("thesis.tex", b"")
    with pytest.raises(DataError, match="no data set"):
        prepare_known(READERS["cub200"], first, bucket, subset=True, overwrite=True, work=work)
    bucket.remove("thesis.tex")
    prepare_known(READERS["cub200"], first, bucket, subset=True, work=work)
    with pytest.raises(DataError, match="already holds"):
        prepare_known(READERS["cub200"], other, bucket, subset=True, work=work)
    info = prepare_known(READERS["cub200"], other, bucket, subset=True, overwrite=True, work=work)
    assert open_dataset(bucket) == info and len(info.class_names) == 2


def _without_a_class(files: dict[str, bytes]) -> dict[str, bytes]:
    return {name: data for name, data in files.items() if "/003." not in name}


@pytest.mark.parametrize("uri", ["s3://gone/x", "ftp://host/x", "s3://", "s3://key:secret@bucket/x"])
def test_places_that_cannot_be_used_are_named_without_their_secrets(tmp_path: Path, s3: str, uri: str) -> None:
    source = cub200(tmp_path)
    with pytest.raises(DataError) as error:
        prepare_known(READERS["cub200"], source, uri + (s3 if "gone" in uri else ""), subset=True, work=tmp_path / "w")
    assert "secret" not in str(error.value) and "Next: " in str(error.value)
