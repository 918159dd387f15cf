"""What the README shows has to run as it stands there."""

import re
from pathlib import Path

import pytest

from pipelines.cli import app
from pipelines.data.datasets import prepared
from pipelines.workspace import Workspace
from search_spaces.loader import load_space

README = Path(__file__).parent.parent.parent / "README.md"


def blocks(language: str) -> list[str]:
    return re.findall(rf"```{language}\n(.*?)```", README.read_text(), flags=re.DOTALL)


def test_the_library_example_runs(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    prepared(load_space("demo").dataset, Workspace(tmp_path / "runs"))
    monkeypatch.chdir(tmp_path)
    names: dict[str, object] = {}
    for example in blocks("python"):
        exec(compile(example, "README.md", "exec"), names)
    out = capsys.readouterr().out
    assert (out.count("Score("), out.count("tensor(")) == (3, 3)


def test_the_example_space_is_valid(tmp_path: Path) -> None:
    example, families = blocks("yaml")
    (tmp_path / "mine.yaml").write_text(example)
    space = load_space(str(tmp_path / "mine.yaml"))
    assert space.name == "mine"
    assert space.budget.scheduler == "asha"
    without_tuners = re.sub(r"^tuners:.*\n(  .*\n)+", "", example, flags=re.MULTILINE)
    (tmp_path / "across.yaml").write_text(without_tuners + families)
    assert "families.1.tuners.0.num_tokens" in load_space(str(tmp_path / "across.yaml")).domains


def test_every_command_is_in_the_table() -> None:
    for command in app.registered_commands:
        assert command.callback is not None
        name = command.name or command.callback.__name__
        assert re.search(rf"`utuning {name}\b", README.read_text()), name
