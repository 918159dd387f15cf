"""Archives and pickles that somebody changed or cut off are refused before anything is made of them."""

import io
import pickle
import stat
import tarfile
import zipfile
from collections import OrderedDict
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from tests.archives import python2_pickle, tar, zipped
from utuning.data.names import inside
from utuning.data.tree import open_tree
from utuning.data.unpickling import Bytes, read_pickle
from utuning.errors import DataError

FILES = {"a/b.txt": b"one", "./c.txt": b"two" * 999, "empty": b""}


def read_all(file: Path, work: Path) -> dict[str, bytes]:
    with open_tree(file, {}, work) as tree:
        return {name: tree.read(name) for name in ("a/b.txt", "c.txt", "empty")}


@pytest.mark.parametrize("name", ["x.tar", "x.tgz", "x.tar.gz", "x.tar.bz2", "x.tar.xz", "x.zip", "no_suffix"])
def test_every_kind_of_archive_reads_back(tmp_path: Path, name: str) -> None:
    file = (zipped if name.endswith("zip") else tar)(tmp_path / name, FILES)
    assert read_all(file, tmp_path) == {"a/b.txt": b"one", "c.txt": b"two" * 999, "empty": b""}


def test_an_unpacked_archive_is_used_again_and_a_changed_one_is_not(tmp_path: Path) -> None:
    file = tar(tmp_path / "x.tgz", FILES)
    read_all(file, tmp_path)
    (plain,) = tmp_path.glob("x.tgz-*.tar")
    before = plain.stat().st_mtime_ns
    read_all(file, tmp_path)
    assert plain.stat().st_mtime_ns == before
    tar(file, {**FILES, "a/b.txt": b"changed"})
    assert read_all(file, tmp_path)["a/b.txt"] == b"changed"


def test_a_tar_that_ends_with_a_zip_is_a_tar(tmp_path: Path) -> None:
    inner = zipped(tmp_path / "inner.zip", {"z": b"z"}).read_bytes()
    assert read_all(tar(tmp_path / "x.tar", {**FILES, "inner.zip": inner}), tmp_path)["a/b.txt"] == b"one"


SPECIAL = [tarfile.SYMTYPE, tarfile.LNKTYPE, tarfile.CHRTYPE, tarfile.BLKTYPE, tarfile.FIFOTYPE]


@pytest.mark.parametrize("kind", SPECIAL)
@pytest.mark.parametrize("suffix", ["tar", "tgz"])
def test_tars_with_links_or_devices_are_refused(tmp_path: Path, kind: bytes, suffix: str) -> None:
    file = tmp_path / f"x.{suffix}"
    with tarfile.open(file, "w:gz" if suffix == "tgz" else "w") as archive:
        entry = tarfile.TarInfo("a/odd")
        entry.type, entry.linkname = kind, "/etc/passwd"
        archive.addfile(entry)
    with pytest.raises(DataError, match="'a/odd', which is a link, a device"):
        read_all(file, tmp_path)


@pytest.mark.parametrize("name", ["../up", "a/../../up", "/etc/passwd", "a\\b", "C:\\x"])
@pytest.mark.parametrize("write", [tar, zipped])
def test_archives_with_names_that_leave_them_are_refused(tmp_path: Path, name: str, write: type(tar)) -> None:
    with pytest.raises(DataError, match="stay below their root"):
        read_all(write(tmp_path / "x.tar", {**FILES, name: b"evil"}), tmp_path)


def test_zips_with_links_are_refused(tmp_path: Path) -> None:
    with zipfile.ZipFile(tmp_path / "x.zip", "w") as archive:
        entry = zipfile.ZipInfo("a/odd")
        entry.external_attr = (stat.S_IFLNK | 0o777) << 16
        archive.writestr(entry, "/etc/passwd")
    with pytest.raises(DataError, match="'a/odd', which is a link"):
        read_all(tmp_path / "x.zip", tmp_path)


@pytest.mark.parametrize("name", ["x.tar", "x.tgz", "x.zip"])
def test_cut_off_archives_are_refused_and_leave_nothing(tmp_path: Path, name: str) -> None:
    noise = np.random.default_rng(0).bytes(20_000)
    file = (zipped if name.endswith("zip") else tar)(tmp_path / name, {**FILES, "noise": noise})
    file.write_bytes(file.read_bytes()[:10_000])
    with pytest.raises(DataError, match="damaged"):
        read_all(file, tmp_path)
    assert [path.name for path in tmp_path.iterdir()] == [name]


def test_what_is_no_archive_is_named(tmp_path: Path) -> None:
    (tmp_path / "x.tgz").write_text("<html>please accept the terms</html>")
    with pytest.raises(DataError, match="is no archive"), open_tree(tmp_path / "x.tgz", {}, tmp_path):
        pass
    with pytest.raises(DataError, match="does not exist"), open_tree(tmp_path / "gone", {}, tmp_path):
        pass


@given(st.lists(st.sampled_from(["..", ".", "a", "b.jpg", ""]), min_size=1, max_size=5).map("/".join))
def test_an_accepted_name_stays_below_its_root(name: str) -> None:
    try:
        clean = inside(name, "x")
    except DataError:
        assert not name or name.startswith("/") or ".." in name.split("/")
        return
    root = Path("/folder/of/it")
    assert (root / clean).resolve().is_relative_to(root)


PLAIN = st.recursive(
    st.integers(-(2**31), 2**31 - 1) | st.text("abc0 -_é", max_size=5),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text("xyz", max_size=3), inner, max_size=3),
)


@given(PLAIN)
def test_plain_pickles_read_back_whoever_wrote_them(value: object) -> None:
    assert read_pickle(pickle.dumps(value), "x") == value
    old = read_pickle(python2_pickle(value), "x")
    # Python 2 wrote text as bytes, which are read as Latin-1.
    assert repr(old).encode("latin1", "replace").decode("utf-8", "replace") == repr(value)


@pytest.mark.parametrize("protocol", range(6))
@pytest.mark.parametrize("order", ["C", "F"])
def test_byte_arrays_read_back(protocol: int, order: str) -> None:
    array = np.asarray(np.arange(24).reshape(4, 6), dtype=np.uint8, order=order)  # type: ignore[call-overload]
    for data in (pickle.dumps(array, protocol=min(protocol, 4)), python2_pickle(np.ascontiguousarray(array))):
        found = read_pickle(data, "x")
        assert isinstance(found, Bytes)
        assert (found.array() == array).all()


class Evil:
    def __reduce__(self) -> object:
        import os

        return os.system, ("touch /tmp/evil",)


@pytest.mark.parametrize(
    "value", [Evil(), OrderedDict(a=1), Path("x"), np.float64(1.0), {"data": [Evil()]}, type, io.BytesIO]
)
def test_pickles_of_anything_else_are_refused(value: object) -> None:
    with pytest.raises(DataError, match="it asks for"):
        read_pickle(pickle.dumps(value), "x")


BROKEN = [b"", b"\x80", b"not a pickle", pickle.dumps([1, 2, 3])[:-3], b"c_codecs\nencode\n(\x8c\x01aU\x03zipt\x8cR."]


@pytest.mark.parametrize("data", BROKEN)
def test_broken_pickles_are_refused(data: bytes) -> None:
    with pytest.raises(DataError, match="cannot be read as plain data"):
        read_pickle(data, "x")


def test_other_arrays_than_bytes_are_refused() -> None:
    found = read_pickle(pickle.dumps(np.arange(3), protocol=2), "x")
    with pytest.raises(TypeError, match="other numbers"):
        found.array()
