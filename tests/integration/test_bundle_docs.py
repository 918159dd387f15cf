"""docs/bundle.md is true: its reader reads a real bundle, and it names every key and every file."""

import json
import re
import shutil
from pathlib import Path

import pytest

from tests.bundles import save
from tests.tools import adapter
from utuning.backbone import Backbone
from utuning.bundles.bundle import MANIFEST

PAGE = (Path(__file__).parent.parent.parent / "docs" / "bundle.md").read_text()


def test_every_key_and_file_is_described(backbone: Backbone, tmp_path: Path) -> None:
    path, _ = save(tmp_path / "bundle", backbone, adapter("attn"))
    values = json.loads((path / MANIFEST).read_text())
    described = set(re.findall(r"`([\w.]+)`", PAGE))
    for part in (values, values["backbone"], values["preprocessing"], values["files"]):
        assert set(part) - described == set()
    assert f"schema version {values['schema_version']}" in PAGE


def test_the_reader_reads(backbone: Backbone, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path, _ = save(tmp_path / "champion", backbone, adapter("attn"))
    monkeypatch.chdir(tmp_path)
    reader = re.findall(r"```python\n(.*?)```", PAGE, flags=re.DOTALL)[0]
    exec(compile(reader, "bundle.md", "exec"), {})
    (path / "extra").write_text("")
    with pytest.raises(AssertionError):
        exec(compile(reader, "bundle.md", "exec"), {})
    shutil.rmtree(path)
