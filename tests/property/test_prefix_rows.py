"""The law: an entry is a dictionary of rows that keeps the first value of each, and forgets a damaged one."""

from pathlib import Path
from tempfile import TemporaryDirectory

import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from utuning.prefix_cache import PrefixCache
from utuning.prefix_entry import PrefixEntry

NUM_ROWS, SHAPE = 6, (2, 3)
ROWS = st.lists(st.integers(0, NUM_ROWS - 1), max_size=8)
STEPS = st.lists(st.tuples(st.sampled_from(["read", "write", "damage", "reopen"]), ROWS), max_size=20)


def opened(folder: Path, dtype: torch.dtype) -> PrefixEntry:
    entry = PrefixCache(folder, 2**20).entry("a", num_rows=NUM_ROWS, row_shape=SHAPE, dtype=dtype, about={})
    assert entry is not None
    return entry


def write(entry: PrefixEntry, known: dict[int, torch.Tensor], rows: list[int], dtype: torch.dtype) -> None:
    values = torch.randn(len(rows), *SHAPE)
    entry.write(torch.tensor(rows, dtype=torch.int64), values)
    for row, value in zip(rows, values.to(dtype), strict=True):
        known.setdefault(row, value)


def read(entry: PrefixEntry, known: dict[int, torch.Tensor], rows: list[int]) -> None:
    found = entry.read(torch.tensor(rows, dtype=torch.int64))
    assert (found is not None) == (set(rows) <= set(known))
    if found is not None:
        assert found.shape == (len(rows), *SHAPE)
        assert all(torch.equal(value, known[row]) for row, value in zip(rows, found, strict=True))


def damage(path: Path, known: dict[int, torch.Tensor], rows: list[int]) -> None:
    size = path.stat().st_size // NUM_ROWS
    content = bytearray(path.read_bytes())
    for row in set(rows):
        content[row * size] = (content[row * size] + 1) % 256  # damaged twice, a row is still damaged
        known.pop(row, None)
    with path.open("r+b") as file:
        file.write(content)


@settings(max_examples=60, deadline=None)
@given(STEPS, st.sampled_from([torch.float32, torch.float16, torch.bfloat16]))
def test_an_entry_behaves_like_a_dictionary_of_rows(steps: list[tuple[str, list[int]]], dtype: torch.dtype) -> None:
    known: dict[int, torch.Tensor] = {}
    with TemporaryDirectory() as name:
        folder = Path(name)
        entry = opened(folder, dtype)
        for step, rows in steps:
            if step == "read":
                read(entry, known, rows)
            elif step == "write":
                write(entry, known, rows, dtype)
            elif step == "damage":
                damage(folder / "a" / "rows.bin", known, rows)
            else:
                entry.close()
                entry = opened(folder, dtype)
        read(entry, known, sorted(known))
        entry.close()
