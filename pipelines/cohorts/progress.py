"""What is kept of a member after each epoch: its state to go on from, and its bundle, in a folder of the storage.

The storage is a local path or anything that pyarrow knows (`s3://…`). An epoch's folder counts once its last file,
`progress.json`, is there: what a killed writer left has none.
"""

import json
import tempfile
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from pyarrow import fs

PROGRESS = "progress.json"
PATH = "checkpoint_path"
"""The metric that says where an epoch's files lie."""
KEPT = 2
PINNED, COPY = "pinned", "copy.json"


class ProgressStore:
    """The saved epochs of a search's members."""

    def __init__(self, storage: str) -> None:
        self._fs: fs.FileSystem
        self._root: str
        self._fs, self._root = fs.FileSystem.from_uri(storage) if "://" in storage else (fs.LocalFileSystem(), storage)

    def latest(self, member_id: str) -> dict[str, Any] | None:
        """What was reported of the last whole epoch of a member."""
        reports = (self._json(f"{path}/{PROGRESS}") for path in reversed(self._epochs(member_id)))
        return next((report for report in reports if report is not None), None)

    def save(self, member_id: str, epoch: int, folder: Path, report: Mapping[str, Any]) -> dict[str, Any]:
        """Keep a folder's files as a member's epoch, and forget all but the last and the pinned ones.

        Says in the report where they lie.
        """
        name = f"epoch-{epoch:05d}"
        path = f"{self._root}/{member_id}/{name}"
        # A killed writer's files, and those of epochs that this one comes before again, would count as its own.
        for stale in self._epochs(member_id):
            if stale.rpartition("/")[2] >= name:
                self._fs.delete_dir(stale)
        self._fs.create_dir(path)
        fs.copy_files(str(folder), path, destination_filesystem=self._fs)
        report = {**report, PATH: path}
        with self._fs.open_output_stream(f"{path}/{PROGRESS}") as file:
            file.write(json.dumps(report).encode())
        for old in self._epochs(member_id)[:-KEPT]:
            if self._fs.get_file_info(f"{old}/{PINNED}").type == fs.FileType.NotFound:
                self._fs.delete_dir(old)
        return report

    def pin(self, path: str) -> None:
        """Keep a saved epoch, however many come after it: another member may begin with it."""
        with self._fs.open_output_stream(f"{path}/{PINNED}") as file:
            file.write(b"")

    def become(self, member_id: str, case: Mapping[str, Any]) -> None:
        """Remember what a member goes on as, now that a population has copied another into it."""
        self._fs.create_dir(f"{self._root}/{member_id}")
        with self._fs.open_output_stream(f"{self._root}/{member_id}/{COPY}") as file:
            file.write(json.dumps(case).encode())

    def became(self, member_id: str) -> dict[str, Any] | None:
        """What a member went on as; None if it is still what it began as."""
        return self._json(f"{self._root}/{member_id}/{COPY}")

    @contextmanager
    def open(self, path: str) -> Iterator[Path]:
        """A local folder with the files of a saved epoch."""
        if isinstance(self._fs, fs.LocalFileSystem):
            yield Path(path)
            return
        with tempfile.TemporaryDirectory() as folder:
            fs.copy_files(path, folder, source_filesystem=self._fs)
            yield Path(folder)

    def _epochs(self, member_id: str) -> list[str]:
        found = self._fs.get_file_info(fs.FileSelector(f"{self._root}/{member_id}", allow_not_found=True))
        return sorted(info.path for info in found if info.type == fs.FileType.Directory)

    def _json(self, path: str) -> dict[str, Any] | None:
        try:
            with self._fs.open_input_stream(path) as file:
                found: dict[str, Any] = json.loads(file.read())
        except (OSError, ValueError):
            return None
        return found
