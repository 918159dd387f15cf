"""A folder on this machine or in an object store, behind one interface."""

import os
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any, Union

import pyarrow as pa
from pyarrow import fs

from utuning.data.faults import fault

Target = Union[Path, str, "Place"]


@dataclass(frozen=True)
class Place:
    """A folder by its absolute local path, or by a URI such as s3://bucket/folder?endpoint_override=host:port."""

    uri: str

    @classmethod
    def of(cls, target: Target) -> "Place":
        """Take a path, a URI or a place."""
        if isinstance(target, Place):
            return target
        if isinstance(target, str) and "://" in target and not target.startswith("file://"):
            return cls(target)
        return cls(str(Path(str(target).removeprefix("file://")).expanduser().absolute()))

    @property
    def local(self) -> Path | None:
        """The path on this machine, if it is there."""
        return None if "://" in self.uri else Path(self.uri)

    @property
    def name(self) -> str:
        """The folder's own name."""
        return self.base.rstrip("/").rpartition("/")[2]

    @cached_property
    def _found(self) -> tuple[Any, str]:
        if self.local is not None:
            return fs.LocalFileSystem(use_mmap=True), self.uri
        where = self.uri.partition("://")[2].partition("?")[0]
        if not where.strip("/"):
            raise fault(f"The place {self.uri!r} names no folder", "a bucket and a folder", "add them")
        if "@" in where.partition("/")[0]:
            # Not repeated here: messages and descriptions end up in logs.
            raise fault(
                "The URI holds a user name or a key",
                "URIs without credentials",
                "put them into the environment, such as AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY",
            )
        try:
            return fs.FileSystem.from_uri(self.uri)  # type: ignore[no-any-return]
        except (pa.ArrowException, OSError, ValueError) as error:
            raise fault(
                f"The place {self.uri!r} cannot be used ({error})",
                "a local path, or a URI that Arrow knows, such as s3://bucket/folder?endpoint_override=host:port",
                "correct it",
            ) from error

    @property
    def filesystem(self) -> Any:
        """The Arrow filesystem."""
        return self._found[0]

    @property
    def base(self) -> str:
        """The folder's path on its filesystem."""
        return self._found[1]

    def file(self, *parts: str) -> str:
        """Return the path of a file below the folder."""
        return "/".join([self.base.rstrip("/"), *parts])

    def files(self) -> dict[str, int]:
        """List all files below the folder by relative name, with their sizes; none where it does not exist."""
        found = self.filesystem.get_file_info(fs.FileSelector(self.base, allow_not_found=True, recursive=True))
        skip = len(self.base.rstrip("/")) + 1
        return {info.path[skip:]: info.size for info in found if info.is_file}

    def read(self, name: str) -> bytes:
        """Read a file; raises FileNotFoundError."""
        with self.filesystem.open_input_file(self.file(name)) as stream:
            data: bytes = stream.read()
        return data

    def write(self, name: str, data: bytes) -> None:
        """Write a file."""
        with self.filesystem.open_output_stream(self.file(name)) as stream:
            stream.write(data)

    def remove(self, name: str) -> None:
        """Remove a file."""
        self.filesystem.delete_file(self.file(name))

    def __fspath__(self) -> str:
        """Return the local path; only for places on this machine."""
        return os.fspath(self.uri)

    def __str__(self) -> str:
        """Return the path or URI."""
        return self.uri
