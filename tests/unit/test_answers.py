"""A bit for each image, written and read again."""

from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from pipelines.results.answers import FILE, Answers
from utuning.errors import TrackingError


@given(right=st.lists(st.booleans(), max_size=70))
def test_answers_read_back_whatever_their_number(tmp_path_factory: pytest.TempPathFactory, right: list[bool]) -> None:
    folder = tmp_path_factory.getbasetemp()
    Answers(data_fingerprint="d1", right=np.array(right, dtype=bool)).write(folder)
    again = Answers.read(folder)
    assert again.data_fingerprint == "d1" and again.right.tolist() == right


def test_an_image_takes_a_bit(tmp_path: Path) -> None:
    file = Answers(data_fingerprint="d" * 64, right=np.ones(24_633, dtype=bool)).write(tmp_path)
    assert file.stat().st_size < 24_633 / 8 * 4 / 3 + 200


@pytest.mark.parametrize("damage", ["", "[]", "{}", '{"data_fingerprint": "d", "num_images": 9, "right": "%%"}'])
def test_damage_is_said(tmp_path: Path, damage: str) -> None:
    (tmp_path / FILE).write_text(damage)
    with pytest.raises(TrackingError, match="cannot be understood"):
        Answers.read(tmp_path)
