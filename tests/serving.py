"""A real server on loopback for tests, images, and ways to ask."""

import base64
import io
import json
import socket
import struct
import threading
import time
import zlib
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from functools import cache
from http.client import HTTPConnection
from pathlib import Path
from typing import Any

import numpy as np
import uvicorn
from PIL import Image

from pipelines.serving.canary import Canary
from pipelines.serving.handler import Handler
from pipelines.serving.opening import Opened
from pipelines.serving.server import config, open_port
from pipelines.serving.settings import Settings
from pipelines.serving.shelf import Shelf
from tests.bundles import save
from tests.tools import TINY, adapter
from utuning.backbone import Backbone
from utuning.bundles.bundle import read_bundle
from utuning.configs import TunerConfig

TUNERS: dict[str, tuple[TunerConfig, ...]] = {
    "adapter": (adapter("attn", "mlp"),),
    "lora": (TunerConfig(method="lora"),),
    "linear": (),
}


@cache
def frozen() -> Backbone:
    """A tiny backbone that a bundle's own description builds again."""
    return Backbone.load("vit_tiny_patch16_224", weights="none", img_size=32, options=TINY)


def saved(folder: Path, name: str, *tuners: TunerConfig) -> Path:
    """A bundle in a folder of bundles."""
    return save(folder / name, frozen(), *tuners)[0]


def saved_all(folder: Path) -> dict[str, Path]:
    """A bundle of each of `TUNERS`."""
    return {name: saved(folder, name, *tuners) for name, tuners in TUNERS.items()}


def opened(bundles: Mapping[str, Path], *, canaries: Sequence[Canary] = (), **options: Any) -> Opened:
    """What a handler serves."""
    shelf = Shelf(frozen(), **options)
    for name, path in bundles.items():
        bundle = read_bundle(path)
        shelf.put(name, bundle, bundle.manifest.trial_id)
    return Opened(shelf, (), tuple(canaries))


def photo(seed: int = 0, size: tuple[int, int] = (48, 40), kind: str = "PNG", mode: str = "RGB") -> bytes:
    """An encoded image of noise."""
    shape = (*size, {"RGB": 3, "RGBA": 4}[mode])
    pixels = np.random.default_rng(seed).integers(0, 256, shape, dtype=np.uint8)
    content = io.BytesIO()
    Image.fromarray(pixels, mode).save(content, kind)
    return content.getvalue()


def chunk(kind: bytes, content: bytes) -> bytes:
    """A chunk of a PNG file, with its checksum."""
    return struct.pack(">I", len(content)) + kind + content + struct.pack(">I", zlib.crc32(kind + content))


def png(width: int, height: int, *chunks: bytes, data: bytes = b"\0") -> bytes:
    """A PNG file whose header promises any size."""
    head = chunk(b"IHDR", struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0))
    return b"\x89PNG\r\n\x1a\n" + head + b"".join(chunks) + chunk(b"IDAT", zlib.compress(data)) + chunk(b"IEND", b"")


def form(*parts: tuple[str, str | None, bytes], boundary: str = "edge") -> tuple[bytes, dict[str, str]]:
    """A multipart body of (field, file name or None, content), and its headers."""
    body = b""
    for field, filename, content in parts:
        where = f'form-data; name="{field}"' + ("" if filename is None else f'; filename="{filename}"')
        body += f"--{boundary}\r\nContent-Disposition: {where}\r\n\r\n".encode() + content + b"\r\n"
    return body + f"--{boundary}--\r\n".encode(), {"Content-Type": f"multipart/form-data; boundary={boundary}"}


def text64(*images: bytes) -> list[str]:
    """Images as JSON has them."""
    return [base64.b64encode(image).decode() for image in images]


@dataclass(frozen=True)
class Answer:
    """What a server answered."""

    status: int
    headers: Mapping[str, str]
    content: bytes

    @property
    def json(self) -> Any:
        return json.loads(self.content)

    @property
    def error(self) -> dict[str, str]:
        found: dict[str, str] = self.json["error"]
        return found


class Live:
    """A server in this process: the real uvicorn on a free port of loopback."""

    def __init__(self, handler: Handler) -> None:
        self.handler = handler
        self._listening = open_port("127.0.0.1", 0)
        self.port: int = self._listening.getsockname()[1]
        self.url = f"http://127.0.0.1:{self.port}"
        self._server = uvicorn.Server(config(handler))
        self._thread = threading.Thread(target=self._server.run, kwargs={"sockets": [self._listening]})

    def start(self) -> None:
        self._thread.start()
        while not self._server.started:
            assert self._thread.is_alive(), "the server ended before it began"
            time.sleep(0.005)

    def stop(self) -> None:
        self._server.should_exit = True
        self._thread.join()

    def send(self, method: str, path: str, body: Any = None, headers: Mapping[str, str] | None = None) -> Answer:
        """One request; an iterable body is sent in chunks, without a length."""
        connection = HTTPConnection("127.0.0.1", self.port, timeout=120)
        try:
            connection.request(method, path, body, dict(headers or {}), encode_chunked=isinstance(body, Iterator))
            response = connection.getresponse()
            return Answer(response.status, {k.lower(): v for k, v in response.getheaders()}, response.read())
        finally:
            connection.close()

    def raw(self, content: bytes, *, end: bool = False) -> bytes:
        """Bytes as they are; `end` closes the sending half after them. Gives all that comes back."""
        with socket.create_connection(("127.0.0.1", self.port), timeout=120) as connection:
            connection.sendall(content)
            if end:
                connection.shutdown(socket.SHUT_WR)
            said = b""
            while not _whole(said):
                piece = connection.recv(65536)
                if not piece:
                    break
                said += piece
            return said

    def predict(self, *images: bytes, headers: Mapping[str, str] | None = None, **values: Any) -> Answer:
        """A JSON request."""
        body = json.dumps({"images": text64(*images), **values})
        return self.send("POST", "/v1/predict", body, {"Content-Type": "application/json", **(headers or {})})


def _whole(said: bytes) -> bool:
    """Whether an answer has the length that it states; without one, it ends with its connection."""
    head, _, body = said.lower().partition(b"\r\n\r\n")
    stated = [int(line.split(b":")[1]) for line in head.split(b"\r\n") if line.startswith(b"content-length:")]
    return bool(stated) and len(body) >= stated[0]


@contextmanager
def live(what: Opened, **settings: Any) -> Iterator[Live]:
    """A server with these tuners, until the end of the block."""
    server = Live(Handler(what, Settings(**{"max_wait_ms": 1.0, **settings})))
    server.start()
    try:
        yield server
    finally:
        server.stop()
