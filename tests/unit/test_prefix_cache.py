"""The prefix cache: rows that come back whole or not at all, a budget, and processes that die at any moment."""

import multiprocessing
import os
import resource
import signal
from concurrent.futures import ProcessPoolExecutor
from multiprocessing.connection import Connection
from multiprocessing.synchronize import Barrier
from pathlib import Path
from typing import Any

import pytest
import torch

from utuning.data.space import free_bytes
from utuning.prefix_cache import DISK_RESERVE, PrefixCache, prefix_key
from utuning.prefix_entry import PrefixEntry

PROCESSES = multiprocessing.get_context("forkserver")
PROCESSES.set_forkserver_preload(["utuning.prefix_cache"])  # torch is imported once, not in every process
NUM_ROWS, SHAPE = 10, (3, 4)
ENTRY_BYTES = NUM_ROWS * (3 * 4 * 4 + 4)
MANY, WIDE = 500, (4096,)
PLENTY = 2**40


def opened(cache: PrefixCache, key: str = "a", **changes: Any) -> PrefixEntry | None:
    layout: dict[str, Any] = {"num_rows": NUM_ROWS, "row_shape": SHAPE, "dtype": torch.float32, "about": {}}
    return cache.entry(key, **{**layout, **changes})


def made(cache: PrefixCache, key: str = "a", **changes: Any) -> PrefixEntry:
    entry = opened(cache, key, **changes)
    assert entry is not None
    return entry


def wide(folder: Path, key: str = "a") -> PrefixEntry:
    return made(PrefixCache(folder, PLENTY), key, num_rows=MANY, row_shape=WIDE)


def truth(rows_B: torch.Tensor) -> torch.Tensor:
    return rows_B[:, None] + torch.arange(WIDE[0]).expand(len(rows_B), -1) / WIDE[0]


def filled(cache: PrefixCache, **changes: Any) -> tuple[PrefixEntry, torch.Tensor]:
    entry = made(cache, **changes)
    values = torch.randn(NUM_ROWS, *SHAPE)
    entry.write(torch.arange(NUM_ROWS), values)
    return entry, values


def damage(path: Path, offset: int) -> None:
    with path.open("r+b") as file:
        file.seek(offset)
        byte = file.read(1)[0]
        file.seek(offset)
        file.write(bytes([byte ^ 1]))


@pytest.mark.parametrize("dtype", [torch.float32, torch.float16, torch.bfloat16])
def test_rows_come_back_in_the_stored_dtype_for_anyone_who_opens_the_entry(tmp_path: Path, dtype: torch.dtype) -> None:
    cache = PrefixCache(tmp_path / "deep" / "cache", PLENTY)
    assert list(tmp_path.iterdir()) == [] and cache.bytes_held() == 0
    rows, asked = torch.tensor([7, 0, 3]), torch.tensor([3, 7, 3])
    values = torch.randn(3, *SHAPE, requires_grad=True)
    with made(cache, dtype=dtype) as entry:
        entry.write(rows, values)
        assert entry.num_present == 3
    with made(cache, dtype=dtype) as entry:
        read = entry.read(asked)
        assert read is not None and read.dtype == dtype
        assert torch.equal(read, values.detach().to(dtype)[[2, 0, 2]])
        read.zero_()
        again = entry.read(asked)
        assert again is not None and again.any()


def test_single_values_and_no_rows_at_all(tmp_path: Path) -> None:
    entry = made(PrefixCache(tmp_path, PLENTY), row_shape=())
    none = torch.tensor([], dtype=torch.int64)
    entry.write(none, torch.zeros(0))
    entry.write(torch.tensor([4]), torch.tensor([2.5]))
    empty, one = entry.read(none), entry.read(torch.tensor([4]))
    assert empty is not None and empty.shape == (0,)
    assert one is not None and one.tolist() == [2.5]


def test_one_missing_row_is_enough_for_none(tmp_path: Path) -> None:
    entry = made(PrefixCache(tmp_path, PLENTY))
    entry.write(torch.tensor([1, 2]), torch.ones(2, *SHAPE))
    assert entry.read(torch.tensor([2, 1])) is not None
    assert entry.read(torch.tensor([1, 3])) is None


def test_rows_that_are_there_are_left_as_they_are(tmp_path: Path) -> None:
    entry, values = filled(PrefixCache(tmp_path, PLENTY))
    entry.write(torch.arange(NUM_ROWS), values + 1)
    read = entry.read(torch.arange(NUM_ROWS))
    assert read is not None and torch.equal(read, values)


@pytest.mark.parametrize(("name", "row_bytes"), [("rows.bin", 48), ("checks.bin", 4)])
def test_a_damaged_row_is_not_there_until_it_is_written_again(tmp_path: Path, name: str, row_bytes: int) -> None:
    entry, values = filled(PrefixCache(tmp_path, PLENTY))
    damage(tmp_path / "a" / name, offset=5 * row_bytes + 2)
    others = torch.tensor([0, 1, 2, 3, 4, 6, 7, 8, 9])
    assert entry.read(torch.tensor([5])) is None
    assert entry.read(others) is not None
    entry.write(torch.arange(NUM_ROWS), values)
    read = entry.read(torch.arange(NUM_ROWS))
    assert read is not None and torch.equal(read, values)


def test_wrong_use_is_named(tmp_path: Path) -> None:
    cache = PrefixCache(tmp_path, PLENTY)
    entry = made(cache)
    for row in (-1, NUM_ROWS):
        with pytest.raises(IndexError, match=f"{row} do not all lie in 0 to 9"):
            entry.read(torch.tensor([row]))
        with pytest.raises(IndexError):
            entry.write(torch.tensor([row]), torch.zeros(1, *SHAPE))
    with pytest.raises(ValueError, match="do not have the shape"):
        entry.write(torch.tensor([1]), torch.zeros(1, 12))
    for key in ("", "..", ".hidden", "a/b"):
        with pytest.raises(ValueError, match="a key is one word"):
            opened(cache, key)
    for nothing in ({"num_rows": 0}, {"row_shape": (3, 0)}):
        with pytest.raises(ValueError, match="at least one"):
            opened(cache, **nothing)
    entry.close()
    entry.close()
    with pytest.raises(ValueError, match="closed"):
        entry.read(torch.tensor([1]))


def test_the_least_recently_opened_entry_makes_room(tmp_path: Path) -> None:
    cache = PrefixCache(tmp_path, 2 * ENTRY_BYTES)
    for key in ("a", "b", "a", "c"):
        made(cache, key).close()
    assert sorted(path.name for path in tmp_path.iterdir()) == [".lock", "a", "c"]
    assert cache.bytes_held() == 2 * ENTRY_BYTES


def test_entries_in_use_stay_and_nothing_is_evicted_in_vain(tmp_path: Path) -> None:
    cache = PrefixCache(tmp_path, 3 * ENTRY_BYTES)
    held, _ = filled(cache)
    for key in ("b", "c"):
        made(cache, key).close()
    assert opened(PrefixCache(tmp_path, 3 * ENTRY_BYTES), "d", num_rows=3 * NUM_ROWS) is None
    assert cache.bytes_held() == 3 * ENTRY_BYTES
    made(cache, "d", num_rows=2 * NUM_ROWS).close()
    assert sorted(path.name for path in tmp_path.iterdir()) == [".lock", "a", "d"]
    held.close()
    made(cache, "e", num_rows=3 * NUM_ROWS)
    assert opened(cache, "f", num_rows=3 * NUM_ROWS + 1) is None


def test_a_foreign_folder_is_neither_counted_nor_evicted(tmp_path: Path) -> None:
    (tmp_path / "photos").mkdir()
    (tmp_path / "photos" / "lock").touch()
    cache = PrefixCache(tmp_path, ENTRY_BYTES)
    for key in ("a", "b"):
        made(cache, key).close()
    assert (tmp_path / "photos" / "lock").exists() and cache.bytes_held() == ENTRY_BYTES


@pytest.mark.parametrize(
    "changes", [{"num_rows": 11}, {"row_shape": (4, 3)}, {"dtype": torch.float16}, {"row_shape": (12,)}]
)
def test_an_entry_of_another_layout_is_replaced_once_nobody_uses_it(tmp_path: Path, changes: dict[str, Any]) -> None:
    cache = PrefixCache(tmp_path, PLENTY)
    entry, _ = filled(cache)
    assert opened(cache, **changes) is None
    entry.close()
    with made(cache, **changes) as replaced:
        assert replaced.num_present == 0


@pytest.mark.parametrize(
    ("name", "content"), [("entry.json", b"{"), ("entry.json", b"[]"), ("rows.bin", b"short"), ("checks.bin", None)]
)
def test_an_entry_with_unusable_files_is_replaced(tmp_path: Path, name: str, content: bytes | None) -> None:
    cache = PrefixCache(tmp_path, PLENTY)
    filled(cache)[0].close()
    path = tmp_path / "a" / name
    path.unlink() if content is None else path.write_bytes(content)
    with made(cache) as entry:
        assert entry.num_present == 0 and cache.bytes_held() == ENTRY_BYTES


def test_an_entry_that_would_fill_the_disk_or_is_in_no_folder_is_none(tmp_path: Path) -> None:
    nearly_all = free_bytes(tmp_path) - DISK_RESERVE // 2
    assert opened(PrefixCache(tmp_path, 2**60), num_rows=1, row_shape=(nearly_all // 4,)) is None
    assert opened(PrefixCache(tmp_path, 2**60), row_shape=(2**50,)) is None
    (tmp_path / "file").touch()
    assert opened(PrefixCache(tmp_path / "file", PLENTY)) is None
    assert sorted(path.name for path in tmp_path.iterdir()) == [".lock", "file"]


def write_on_a_full_disk(folder: Path) -> tuple[bool, int]:
    resource.setrlimit(resource.RLIMIT_FSIZE, (120, 120))  # two rows and a half
    cache = PrefixCache(folder, PLENTY)
    entry = filled(cache)[0]
    return opened(cache, "new") is None, entry.num_present


def test_a_disk_that_fills_up_costs_only_the_rows_that_do_not_fit(tmp_path: Path) -> None:
    with made(PrefixCache(tmp_path, PLENTY)) as entry, ProcessPoolExecutor(1, PROCESSES) as pool:
        assert pool.submit(write_on_a_full_disk, tmp_path).result() == (True, 2)
        assert entry.read(torch.tensor([0, 1])) is not None
        assert entry.read(torch.tensor([2])) is None
    assert sorted(path.name for path in tmp_path.iterdir()) == [".lock", "a"]


def write_all(folder: Path, writer: int, start: Barrier) -> None:
    same, own = wide(folder, "same"), wide(folder, "own")
    start.wait(timeout=120)
    for rows in torch.randperm(MANY, generator=torch.Generator().manual_seed(writer)).split(16):
        same.write(rows, truth(rows))
        own.write(rows, torch.full((len(rows), *WIDE), float(writer)))


def check_all(same: PrefixEntry, own: PrefixEntry) -> None:
    for rows in torch.arange(MANY).split(1):
        read, read_own = same.read(rows), own.read(rows)
        assert read is None or torch.equal(read, truth(rows))
        assert read_own is None or ((read_own == read_own[0, 0]).all() and read_own[0, 0] in (1, 2))


def test_two_processes_that_write_at_once_never_mix_a_row(tmp_path: Path) -> None:
    start = PROCESSES.Barrier(3)
    writers = [PROCESSES.Process(target=write_all, args=(tmp_path, number, start)) for number in (1, 2)]
    for process in writers:
        process.start()
    same, own = wide(tmp_path, "same"), wide(tmp_path, "own")
    start.wait(timeout=120)
    while any(process.is_alive() for process in writers):
        check_all(same, own)
    assert [process.exitcode for process in writers] == [0, 0]
    write_all(tmp_path, 1, PROCESSES.Barrier(1))
    check_all(same, own)
    assert same.read(torch.arange(MANY)) is not None and own.read(torch.arange(MANY)) is not None


def write_until_killed(folder: Path, pipe: Connection) -> None:
    entry = wide(folder)
    pipe.send("open")
    pipe.recv()
    entry.write(torch.arange(MANY), truth(torch.arange(MANY)))
    pipe.recv()


def test_a_killed_writer_leaves_whole_rows_and_no_lock(tmp_path: Path) -> None:
    ours, theirs = PROCESSES.Pipe()
    writer = PROCESSES.Process(target=write_until_killed, args=(tmp_path, theirs))
    writer.start()
    assert ours.recv() == "open"
    small = PrefixCache(tmp_path, MANY * (WIDE[0] * 4 + 4))
    assert opened(small, "b") is None
    with wide(tmp_path) as entry:
        ours.send("go")
        while entry.num_present == 0:
            assert writer.is_alive()
        writer.kill()
        writer.join()
        for rows in torch.arange(MANY).split(1):
            read = entry.read(rows)
            assert read is None or torch.equal(read, truth(rows))
        entry.write(torch.arange(MANY), truth(torch.arange(MANY)))
        read = entry.read(torch.arange(MANY))
        assert read is not None and torch.equal(read, truth(torch.arange(MANY)))
    made(small, "b")


class Deadly:
    def __str__(self) -> str:
        os.kill(os.getpid(), signal.SIGKILL)
        return ""


def die_while_making(folder: Path) -> None:
    opened(PrefixCache(folder, PLENTY), about={"killed": Deadly()})


def test_what_a_killed_maker_leaves_is_removed(tmp_path: Path) -> None:
    maker = PROCESSES.Process(target=die_while_making, args=(tmp_path,))
    maker.start()
    maker.join()
    assert maker.exitcode == -signal.SIGKILL
    assert [path.name.split("-")[0] for path in tmp_path.iterdir() if path.is_dir()] == [".a.partial"]
    cache = PrefixCache(tmp_path, PLENTY)
    assert cache.bytes_held() == 0
    made(cache, "b").close()
    assert sorted(path.name for path in tmp_path.iterdir()) == [".lock", "b"]


def churn(folder: Path, process: int, start: Barrier) -> int:
    """Open more entries than there is room for, one at a time, and check what is read; counts the readings."""
    cache, rows, num_read = PrefixCache(folder, 3 * ENTRY_BYTES), torch.arange(NUM_ROWS), 0
    order = torch.randint(0, 6, (80,), generator=torch.Generator().manual_seed(process)).tolist()
    start.wait(timeout=120)
    for number in order:
        entry = opened(cache, f"k{number}")
        assert cache.bytes_held() <= 3 * ENTRY_BYTES
        if entry is not None:
            with entry:
                entry.write(rows, torch.full((NUM_ROWS, *SHAPE), float(number)))
                read = entry.read(rows)
                assert read is not None and (read == number).all()
                num_read += 1
    return num_read


def churn_and_leave(folder: Path, process: int, start: Barrier) -> None:
    assert churn(folder, process, start) > 40


def test_processes_that_evict_each_others_entries_read_what_was_written_and_keep_the_budget(tmp_path: Path) -> None:
    start = PROCESSES.Barrier(2)
    others = [PROCESSES.Process(target=churn_and_leave, args=(tmp_path, number, start)) for number in (1, 2)]
    for process in others:
        process.start()
    for process in others:
        process.join(timeout=120)
    assert [process.exitcode for process in others] == [0, 0]
    assert PrefixCache(tmp_path, PLENTY).bytes_held() <= 3 * ENTRY_BYTES


def test_the_key_depends_on_every_fact_and_not_on_their_order() -> None:
    facts: dict[str, Any] = {"backbone": "ab12", "split": "train", "seed": 0, "depth": 6, "crop": [1, 2]}
    key = prefix_key(**facts)
    assert len(key) == 32 and int(key, 16) >= 0
    assert prefix_key(**dict(reversed(facts.items()))) == key
    others = [prefix_key(**{**facts, name: "other"}) for name in facts] + [prefix_key(**facts, more=1)]
    assert len({key, *others}) == len(facts) + 2
    with pytest.raises(TypeError):
        prefix_key(backbone=object())
