"""A result file, with the commit, the versions and the machine that it comes from, and the page beside it."""

import json
from pathlib import Path
from typing import Any

from pipelines import provenance

# Read at the start: a result file that is written while measuring is itself a change to the checkout.
SOURCE = {"commit": provenance.commit(), "versions": provenance.versions(), "machine": provenance.machine()}


def table_row(*cells: object) -> str:
    """A row of a page's table, as Markdown."""
    return f"| {' | '.join(map(str, cells))} |"


def write_result(path: Path, command: str, page: str | None = None, **values: Any) -> None:
    """Write a result file with the commit, the versions and the machine it comes from, and a page of its name."""
    path.parent.mkdir(parents=True, exist_ok=True)
    if page is not None:
        path.with_suffix(".md").write_text(page)
    path.write_text(json.dumps({"command": command, **values, **SOURCE}, indent=2) + "\n")
