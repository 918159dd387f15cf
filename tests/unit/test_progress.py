"""What is kept of a member: its last epochs, each whole or not at all."""

from pathlib import Path
from typing import Any

import pytest

from pipelines.cohorts.progress import KEPT, PATH, PROGRESS, ProgressStore

STORAGES = ("path", "file", "mock")


@pytest.fixture(params=STORAGES)
def store(request: pytest.FixtureRequest, tmp_path: Path) -> ProgressStore:
    """A store in a local folder, named by its path and by a URI, and in one that only pyarrow can read."""
    root = tmp_path / "members"
    return ProgressStore({"path": str(root), "file": root.as_uri(), "mock": "mock:///members"}[request.param])


def trained(tmp_path: Path, epoch: int) -> Path:
    """A folder as a worker leaves it after an epoch."""
    folder = tmp_path / f"trained-{epoch}"
    (folder / "bundle").mkdir(parents=True, exist_ok=True)
    (folder / "state.pt").write_bytes(bytes([epoch]))
    (folder / "bundle" / "manifest.json").write_text(f"epoch {epoch}")
    return folder


def save(store: ProgressStore, tmp_path: Path, epoch: int, member_id: str = "m") -> dict[str, Any]:
    return store.save(member_id, epoch, trained(tmp_path, epoch), {"epoch": epoch, "val/accuracy": epoch / 10})


def state(store: ProgressStore, report: dict[str, Any]) -> bytes:
    with store.open(report[PATH]) as folder:
        return (folder / "state.pt").read_bytes()


def tear(store: ProgressStore, report: dict[str, Any]) -> None:
    """Leave an epoch's folder as a writer does that is killed before its last file."""
    store._fs.delete_file(f"{report[PATH]}/{PROGRESS}")


def test_a_saved_epoch_is_read_as_it_was_written(store: ProgressStore, tmp_path: Path) -> None:
    report = save(store, tmp_path, 1)
    assert report == {"epoch": 1, "val/accuracy": 0.1, PATH: report[PATH]}
    assert store.latest("m") == report
    with store.open(report[PATH]) as folder:
        assert (folder / "state.pt").read_bytes() == bytes([1])
        assert (folder / "bundle" / "manifest.json").read_text() == "epoch 1"


def test_an_unknown_member_has_no_epoch(store: ProgressStore, tmp_path: Path) -> None:
    assert store.latest("m") is None
    save(store, tmp_path, 1, member_id="other")
    assert store.latest("m") is None


def test_members_keep_their_epochs_apart(store: ProgressStore, tmp_path: Path) -> None:
    reports = {name: save(store, tmp_path, epoch, name) for name, epoch in (("a", 1), ("b", 2))}
    assert {name: store.latest(name) for name in reports} == reports


def test_the_tenth_epoch_comes_after_the_ninth(store: ProgressStore, tmp_path: Path) -> None:
    reports = [save(store, tmp_path, epoch) for epoch in (9, 10)]
    assert store._epochs("m") == [report[PATH] for report in reports]
    assert store.latest("m") == reports[-1]


def test_an_epoch_without_its_last_file_does_not_count(store: ProgressStore, tmp_path: Path) -> None:
    whole, torn = save(store, tmp_path, 1), save(store, tmp_path, 2)
    tear(store, torn)
    assert store.latest("m") == whole
    tear(store, whole)
    assert store.latest("m") is None


def test_an_epoch_whose_last_file_is_cut_off_does_not_count(store: ProgressStore, tmp_path: Path) -> None:
    whole, torn = save(store, tmp_path, 1), save(store, tmp_path, 2)
    with store._fs.open_output_stream(f"{torn[PATH]}/{PROGRESS}") as file:
        file.write(b'{"epoch": ')
    assert store.latest("m") == whole


def test_only_the_last_two_epochs_are_kept(store: ProgressStore, tmp_path: Path) -> None:
    reports = [save(store, tmp_path, epoch) for epoch in range(1, 6)]
    assert KEPT == 2
    assert store._epochs("m") == [report[PATH] for report in reports[-2:]]
    assert [state(store, report) for report in reports[-2:]] == [bytes([4]), bytes([5])]


def test_an_epoch_that_is_trained_again_replaces_what_was_left_of_it(store: ProgressStore, tmp_path: Path) -> None:
    (trained(tmp_path, 1) / "of an earlier try").touch()
    save(store, tmp_path, 1)
    (trained(tmp_path, 1) / "of an earlier try").unlink()
    again = save(store, tmp_path, 1)
    with store.open(again[PATH]) as folder:
        assert not (folder / "of an earlier try").exists()


@pytest.mark.parametrize("epoch", [3, 8])
def test_who_goes_on_from_an_earlier_epoch_forgets_its_later_ones(
    store: ProgressStore, tmp_path: Path, epoch: int
) -> None:
    for before in (7, 8, 9):
        save(store, tmp_path, before)
    report = save(store, tmp_path, epoch)
    assert store.latest("m") == report
    assert state(store, report) == bytes([epoch])


def test_a_pinned_epoch_stays_until_its_own_member_goes_back_before_it(store: ProgressStore, tmp_path: Path) -> None:
    reports = [save(store, tmp_path, 1)]
    store.pin(reports[0][PATH])
    reports += [save(store, tmp_path, epoch) for epoch in range(2, 6)]
    assert store._epochs("m") == [reports[0][PATH], *(report[PATH] for report in reports[-2:])]
    assert state(store, reports[0]) == bytes([1])
    assert store.latest("m") == reports[-1]
    again = save(store, tmp_path, 1)
    assert store._epochs("m") == [again[PATH]]


def test_what_a_member_became_is_remembered(store: ProgressStore, tmp_path: Path) -> None:
    assert store.became("m") is None
    report = save(store, tmp_path, 1)
    for case in ({"id": "m-1", "trial": {"train": {"lr": 0.5}}}, {"id": "m-2"}):
        store.become("m", case)
        assert store.became("m") == case
    assert store.latest("m") == report and store.became("other") is None
