"""Hostile requests and images: each gets a clear error, and the server goes on serving."""

import gzip
import io
import json
import pickle
import shutil
import socket
import zlib
from collections.abc import Callable, Iterator
from pathlib import Path
from threading import Event, Thread

import pytest
import torch
from PIL import Image

from tests.bundles import retensor, save
from tests.serving import Answer, Live, chunk, form, live, opened, photo, png, saved_all, text64
from tests.tools import tiny_backbone
from utuning.bundles.bundle import TENSORS

TOKEN = "a token of some length"
GOOD = photo()
JSON = {"Content-Type": "application/json"}
KEY = {"Authorization": f"Bearer {TOKEN}"}


class Keyed(Live):
    """Shows the token."""

    def send(self, method: str, path: str, body=None, headers=None) -> Answer:  # type: ignore[no-untyped-def]
        return super().send(method, path, body, {**KEY, **(headers or {})})


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Keyed]:
    models = tmp_path_factory.mktemp("models")
    bundles = saved_all(models)
    spoil(models, models.parent)
    limits = {"max_body_bytes": 1 << 20, "max_pixels": 4_000_000, "max_images": 4, "body_timeout_s": 0.3}
    held = opened({"lora": bundles["lora"], "linear": bundles["linear"]})
    with live(held, token=TOKEN, allow_load=True, models=models, max_queue=64, **limits) as it:
        it.__class__ = Keyed
        yield it  # type: ignore[misc]


def spoil(models: Path, outside: Path) -> None:
    """Bundles that nobody should load."""
    for name in ("nan", "cut", "extra", "pickled"):
        shutil.copytree(models / "lora", models / name)
    # Written by somebody who knows the format: the digests are right.
    retensor(models / "nan", lambda tensors: tensors["head.bias"].fill_(torch.nan))
    (models / "cut" / TENSORS).write_bytes((models / "cut" / TENSORS).read_bytes()[:-7])
    (models / "extra" / "run.py").write_text("print('hello')")
    (models / "pickled" / TENSORS).write_bytes(pickle.dumps({"head.bias": [0.0]}))
    (models / "empty").mkdir()
    save(models / "stranger", tiny_backbone(seed=9))
    shutil.copytree(models / "lora", outside / "outside")
    (models / "link").symlink_to(outside / "outside")


# Images

Make = Callable[[], bytes]


def encoded(kind: str, size: tuple[int, int], mode: str = "L") -> bytes:
    content = io.BytesIO()
    Image.new(mode, size).save(content, kind)
    return content.getvalue()


def jpeg_of(width: int, height: int) -> bytes:
    """A JPEG whose header promises another size."""
    content = bytearray(photo(kind="JPEG"))
    at = content.index(b"\xff\xc0") + 5
    content[at : at + 4] = height.to_bytes(2, "big") + width.to_bytes(2, "big")
    return bytes(content)


def swap(content: bytes, at: int, new: bytes) -> bytes:
    return content[:at] + new + content[at + len(new) :]


IMAGES: dict[str, tuple[Make, int, str]] = {
    "nothing": (lambda: b"", 422, "cannot be decoded"),
    "one byte": (lambda: b"\x89", 422, "cannot be decoded"),
    "a truncated PNG": (lambda: GOOD[: len(GOOD) // 2], 422, "truncated"),
    "a PNG's signature alone": (lambda: GOOD[:8], 422, "cannot be decoded"),
    "a PNG with a flipped bit": (lambda: swap(GOOD, len(GOOD) // 2, bytes([GOOD[len(GOOD) // 2] ^ 1])), 422, "cannot"),
    "a truncated JPEG": (lambda: photo(kind="JPEG")[:400], 422, "cannot be decoded"),
    "a truncated WebP": (lambda: photo(kind="WEBP")[:100], 422, "cannot be decoded"),
    "a truncated GIF": (lambda: photo(kind="GIF")[:300], 422, "cannot be decoded"),
    "a truncated TIFF": (lambda: photo(kind="TIFF")[:50], 422, "cannot be decoded"),
    "a truncated BMP": (lambda: photo(kind="BMP")[:100], 422, "cannot be decoded"),
    "a PNG that promises 60,000 x 60,000": (lambda: png(60_000, 60_000), 413, "send a smaller one"),
    "a PNG that promises 2 billion squared": (lambda: png(2**31 - 1, 2**31 - 1), 413, "send a smaller one"),
    "a PNG of no width": (lambda: png(0, 10), 422, "cannot be decoded"),
    "a JPEG that promises 65,500 x 65,500": (lambda: jpeg_of(65_500, 65_500), 413, "send a smaller one"),
    "a GIF that promises 65,535 x 65,535": (
        lambda: swap(photo(kind="GIF"), 6, b"\xff\xff\xff\xff"),
        413,
        "send a smaller one",
    ),
    "a BMP that promises 100,000 x 100,000": (
        lambda: swap(photo(kind="BMP"), 18, (100_000).to_bytes(4, "little") * 2),
        413,
        "send a smaller one",
    ),
    "a real bomb: 25 million pixels in 25 KB": (lambda: encoded("PNG", (5000, 5000)), 413, "25,000,000"),
    "a strip that would grow": (lambda: encoded("PNG", (1, 100_000)), 413, "with its shorter side at 1"),
    "a bomb in a PNG's text": (
        lambda: png(8, 8, chunk(b"zTXt", b"a\0\0" + zlib.compress(bytes(50 << 20)))),
        422,
        "cannot be decoded",
    ),
    "a bomb in a PNG's colour profile": (
        lambda: png(8, 8, chunk(b"iCCP", b"a\0\0" + zlib.compress(bytes(50 << 20)))),
        422,
        "cannot be decoded",
    ),
    "text": (lambda: b"hello " * 100, 422, "allowed: complete images as BMP, GIF"),
    "a web page": (lambda: b"<!doctype html><script>alert(1)</script>", 422, "allowed: complete images"),
    "an SVG": (lambda: b"<svg xmlns='http://www.w3.org/2000/svg'/>", 422, "allowed: complete images"),
    "PostScript": (lambda: b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 9 9\n%%EOF\n", 422, "allowed: complete"),
    "a PDF": (lambda: b"%PDF-1.7\n" + bytes(100), 422, "allowed: complete images"),
    "a pickle": (lambda: pickle.dumps({"a": 1}), 422, "allowed: complete images"),
    "a compressed image": (lambda: gzip.compress(GOOD), 422, "allowed: complete images"),
    "an icon, which is no format for photos": (lambda: encoded("ICO", (16, 16), "RGB"), 422, "allowed: complete"),
}


@pytest.mark.parametrize("name", IMAGES)
def test_hostile_images(server: Keyed, name: str) -> None:
    make, status, says = IMAGES[name]
    as_file, headers = form(("images", "it.png", make()), ("tuners", None, b"lora"))
    for answer in (
        server.send("POST", "/v1/predict", as_file, headers),
        server.predict(make(), tuners="lora"),
    ):
        check(answer, status, says)
        assert "image '" in answer.error["message"]
    serves_on(server)


def check(answer: Answer, status: int, says: str) -> None:
    assert answer.status == status, answer.content
    assert answer.headers["content-type"] == "application/json"
    assert says in answer.error["message"] and answer.error["kind"].islower()
    assert "Traceback" not in answer.error["message"] and len(answer.error["message"]) < 1000


def serves_on(server: Live) -> None:
    answer = server.predict(GOOD, tuners="all")
    assert [each["tuner"] for each in answer.json["results"][0]["predictions"]] == ["linear", "lora"]


# Requests

Send = Callable[[Keyed], Answer]


def post(body: object, headers: dict[str, str] | None = None) -> Send:
    """Bytes, or values as JSON, to be predicted."""
    content = body if isinstance(body, bytes) else json.dumps(body).encode()
    return lambda server: server.send("POST", "/v1/predict", content, JSON if headers is None else headers)


def asked(**values: object) -> Send:
    return post({"images": text64(GOOD), "tuners": "lora", **values})


def posted(*parts: tuple[str, str | None, bytes]) -> Send:
    return post(*form(*parts))


def at(method: str, path: str, headers: dict[str, str] | None = None) -> Send:
    return lambda server: server.send(method, path, headers=headers)


def chunks(start: bytes = b"") -> Iterator[bytes]:
    yield start
    for _ in range(40):
        yield bytes(64 << 10)


ONE = ("images", "it.png", GOOD)
REQUESTS: dict[str, tuple[Send, int, str]] = {
    # what it is
    "no content type": (post(b"hello", {}), 415, "allowed: multipart/form-data with files"),
    "an image as it is": (post(GOOD, {"Content-Type": "image/png"}), 415, "'image/png'; allowed:"),
    "a form in an address": (
        post(b"a=b", {"Content-Type": "application/x-www-form-urlencoded"}), 415, "allowed: multipart/form-data",
    ),
    "compressed JSON": (
        post(gzip.compress(b"{}"), {**JSON, "Content-Encoding": "gzip"}), 400, "no valid JSON",
    ),
    # JSON
    "no body": (post(b""), 400, "no valid JSON"),
    "broken JSON": (post(b'{"images": ['), 400, "no valid JSON"),
    "JSON in another encoding": (post('{"images": []}'.encode("utf-16")), 400, ""),
    "bytes that are no text": (post(b'{"images": ["\xff\xfe"]}'), 400, "no valid JSON"),
    "a list": (post([]), 400, "the request is []; allowed: a mapping"),
    "JSON nested without end": (post(b"[" * 200_000), 400, "nested too deeply"),
    "an object nested without end": (post(b'{"a":' * 100_000), 400, "nested too deeply"),
    "a number of a hundred thousand digits": (post(b'{"top":' + b"9" * 100_000 + b"}"), 400, "no valid JSON"),
    "NaN": (post(b'{"images": [], "top": NaN}'), 400, "NaN is no JSON number"),
    "an unknown key": (asked(image="a"), 400, "unknown key 'image'; did you mean 'images'"),
    "a key of half a megabyte": (asked(**{"a" * (1 << 19): 1}), 400, "unknown key 'aaa"),
    "no images": (post({"tuners": "lora"}), 400, "lacks 'images'"),
    "an empty list of images": (asked(images=[]), 400, "the request has no image"),
    "images that are one text": (asked(images=text64(GOOD)[0]), 400, "allowed: a list of text"),
    "images that are numbers": (asked(images=[1, 2]), 400, "images[0] is 1; allowed: text"),
    "base64 with other characters": (asked(images=["%%%%"]), 400, "images[0] is '%%%%', which is no base64"),
    "base64 cut off": (asked(images=[text64(GOOD)[0][:-3]]), 400, "which is no base64"),
    "base64 in another alphabet": (asked(images=["ä" * 8]), 400, "which is no base64"),
    "an address in place of an image": (asked(images=["http://169.254.169.254/latest"]), 400, "which is no base64"),
    "a path in place of an image": (asked(images=["/etc/passwd"]), 400, "which is no base64"),
    # values
    "no class at all": (asked(top=0), 400, "top is 0; allowed: 1 to 1,000"),
    "a negative number of classes": (asked(top=-5), 400, "top is -5; allowed"),
    "a billion classes": (asked(top=10**9), 400, "top is 1,000,000,000; allowed: 1 to 1,000"),
    "half a class": (asked(top=2.5), 400, "top is 2.5; allowed: a whole number"),
    "classes in words": (asked(top="five"), 400, "top is 'five'; allowed: a whole number"),
    "a tuner that is nearly there": (asked(tuners="lorra"), 404, "no tuner is called 'lorra'; did you mean 'lora'"),
    "a tuner that is a path": (asked(tuners="../../etc/passwd"), 404, "no tuner is called '../../etc/passwd'"),
    "a tuner with half a megabyte of name": (asked(tuners="a" * (1 << 19)), 404, "no tuner is called 'aaa"),
    "a tuner that is a number": (asked(tuners=7), 400, "tuners is 7; allowed: text"),
    "no tuner in a list": (asked(tuners=[]), 400, "tuners is empty"),
    "no tuner named where there are several": (asked(tuners=None), 400, "names no tuner; give one or more"),
    "an id of a thousand characters": (asked(id="a" * 1000), 400, "id is 'aaa"),
    "an id of two lines": (asked(id="a\nb"), 400, "allowed: up to 128 printable ASCII"),
    "more images than allowed": (asked(images=text64(GOOD) * 5), 413, "has 5 images; allowed: 4"),
    # forms
    "a form without a boundary": (post(b"--a", {"Content-Type": "multipart/form-data"}), 400, "boundary"),
    "a form with another boundary": (
        post(form(ONE)[0], {"Content-Type": "multipart/form-data; boundary=other"}), 400, "",
    ),
    "a form that is cut off": (post(form(ONE)[0][:-40], form()[1]), 400, ""),
    "a form without an image": (posted(("tuners", None, b"lora")), 400, "the request has no image"),
    "an image in another field": (posted(("image", "it.png", GOOD)), 400, "a file as 'image'; give image files as"),
    "an image that is a field": (posted(("images", None, b"hello")), 400, "the request has no image"),
    "a field that nobody knows": (posted(ONE, ("tuner", None, b"lora")), 400, "did you mean 'tuners'"),
    "top twice": (posted(ONE, ("top", None, b"1"), ("top", None, b"2")), 400, "'top' 2 times"),
    "a top that is no number": (posted(ONE, ("top", None, "²".encode())), 400, "give a whole number"),
    "more files than allowed": (posted(*[ONE] * 5), 400, "Too many files"),
    "ten thousand fields": (posted(ONE, *[("tuners", None, b"a")] * 10_000), 400, "Too many fields"),
    "a file's name that is a path": (
        posted(("images", "../../etc/passwd", b"hello"), ("tuners", None, b"lora")), 422, "'../../etc/passwd'",
    ),
    # sizes
    "a body over the limit": (post(bytes(2 << 20)), 413, "has 2097152 bytes; allowed: 1,048,576"),
    "a body over the limit, in chunks": (
        lambda server: server.send("POST", "/v1/predict", chunks(), JSON), 413, "allowed: 1,048,576",
    ),
    "a form over the limit, in chunks": (
        lambda server: server.send("POST", "/v1/predict", chunks(form(ONE)[0][:-20]), form()[1]),
        413,
        "allowed: 1,048,576",
    ),
    "headers of 20 KB": (at("GET", "/v1/tuners", {"X-Long": "a" * 20_000}), 431, "allowed: 16,384"),
    # ways
    "an unknown path": (at("GET", "/v2/predict"), 404, "is nothing here; there are: POST /v1/predict"),
    "a path that leaves": (at("GET", "/../../etc/passwd"), 404, "is nothing here"),
    "a path of 10 KB": (at("GET", "/" + "a" * 10_000), 404, "is nothing here"),
    "another method": (at("GET", "/v1/predict"), 405, "is nothing here"),
    "a page that is asked to trace": (at("TRACE", "/"), 405, "is nothing here"),
    # the token
    "a wrong token": (at("GET", "/v1/tuners", {"Authorization": "Bearer no"}), 401, "wants a token"),
    "a token of another kind": (at("GET", "/v1/tuners", {"Authorization": f"Basic {TOKEN}"}), 401, "wants a token"),
    "a token in another alphabet": (at("GET", "/v1/tuners", {"Authorization": "Bearer \xff"}), 401, "wants a token"),
    "no token for the metrics": (at("GET", "/metrics", {"Authorization": ""}), 401, "wants a token"),
    # loading
    "a bundle with NaN": (at("PUT", "/v1/tuners/nan"), 422, "NaN or infinite"),
    "a bundle that is cut off": (at("PUT", "/v1/tuners/cut"), 422, "altered or cut short"),
    "a bundle with code": (at("PUT", "/v1/tuners/extra"), 422, "run.py is not in the bundle's manifest"),
    "a bundle with a pickle": (at("PUT", "/v1/tuners/pickled"), 422, "altered or cut short"),
    "an empty folder": (at("PUT", "/v1/tuners/empty"), 422, "incomplete"),
    "a bundle of another backbone": (at("PUT", "/v1/tuners/stranger"), 422, "give the weights that it was trained on"),
    "a bundle that is not there": (at("PUT", "/v1/tuners/nothing"), 404, "holds no bundle 'nothing'; it holds: "),
    "a name that leaves the folder": (at("PUT", "/v1/tuners/..%2Foutside"), 404, ""),
    "dots for a name": (at("PUT", "/v1/tuners/%2e%2e"), 404, ""),
    "an absolute name": (at("PUT", "/v1/tuners/%2Fetc"), 404, ""),
    "a link out of the folder": (at("PUT", "/v1/tuners/link"), 404, "holds no bundle 'link'"),
    "a name with a zero byte": (at("PUT", "/v1/tuners/a%00b"), 404, "holds no bundle"),
    "everybody as a name": (at("PUT", "/v1/tuners/all"), 404, "holds no bundle 'all'"),
    "unloading whom nobody knows": (at("DELETE", "/v1/tuners/lorra"), 404, "did you mean 'lora'"),
}  # fmt: skip


@pytest.mark.parametrize("name", REQUESTS)
def test_hostile_requests(server: Keyed, name: str) -> None:
    send, status, says = REQUESTS[name]
    check(send(server), status, says)
    serves_on(server)


# Connections


def head(*lines: str) -> bytes:
    return "\r\n".join(
        ("POST /v1/predict HTTP/1.1", "Host: a", f"Authorization: Bearer {TOKEN}", *lines, "", "")
    ).encode()


RAW: dict[str, tuple[bytes, bytes, bytes]] = {
    "no HTTP": (b"\x16\x03\x01\x02\x00\x01\x00" * 20 + b"\r\n\r\n", b" 400 ", b"Invalid HTTP"),
    "headers without end": (head("X-Long: " + "a" * 65_600)[:-4], b" 400 ", b"Invalid HTTP"),
    "a negative length": (head("Content-Length: -1"), b" 400 ", b"Invalid HTTP"),
    "a length of a hundred digits": (head("Content-Length: " + "9" * 100), b" 400 ", b"Invalid HTTP"),
    "two lengths": (head("Content-Length: 1", "Content-Length: 2"), b" 400 ", b"Invalid HTTP"),
    "a body that stops": (head("Content-Type: application/json", "Content-Length: 100") + b'{"', b" 408 ", b"too_slow"),
    "a form that stops": (
        head("Content-Type: multipart/form-data; boundary=a", "Content-Length: 100") + b"--a", b" 408 ", b"too_slow",
    ),
}  # fmt: skip


@pytest.mark.parametrize("name", RAW)
def test_hostile_connections(server: Keyed, name: str) -> None:
    content, status, says = RAW[name]
    said = server.raw(content)
    assert status in said.splitlines()[0] and says in said
    serves_on(server)


def test_a_client_that_leaves_in_the_middle(server: Keyed) -> None:
    server.raw(head("Content-Type: application/json", "Content-Length: 100") + b'{"images":', end=True)
    serves_on(server)


def test_a_refusal_says_how_to_show_a_token(server: Keyed) -> None:
    assert Live.send(server, "GET", "/v1/tuners").headers["www-authenticate"] == "Bearer"
    assert Live.send(server, "GET", "/health").status == 200


def test_loading_is_off_unless_it_is_allowed(tmp_path: Path) -> None:
    bundles = saved_all(tmp_path)
    with live(opened({"lora": bundles["lora"], "linear": bundles["linear"]}), max_batch=2, max_queue=3) as server:
        for method in ("PUT", "DELETE"):
            check(server.send(method, "/v1/tuners/lora"), 403, "start the server with --allow-load")
        check(server.predict(GOOD, GOOD, tuners="all"), 413, "asks for 4 predictions; allowed: 3")
        serves_on(server)


def test_a_full_queue_says_when_to_come_again(tmp_path: Path) -> None:
    bundles = saved_all(tmp_path)
    held = opened({"lora": bundles["lora"], "linear": bundles["linear"]})
    with live(held, max_batch=2, max_queue=2) as server:
        going, go, score = Event(), Event(), held.shelf.score

        def waits(*args: object) -> object:
            going.set()
            go.wait(30)
            return score(*args)  # type: ignore[arg-type]

        held.shelf.score = waits  # type: ignore[assignment, method-assign]
        found: list[Answer] = []
        running = [Thread(target=lambda: found.append(server.predict(GOOD, tuners="all"))) for _ in range(2)]
        running[0].start()
        going.wait(30)
        running[1].start()
        while server.handler._batcher.num_waiting < 2:
            Event().wait(0.005)
        busy = server.predict(GOOD, tuners="lora")
        check(busy, 429, "2 predictions wait already; allowed: 2; ask again in 1 s")
        assert busy.headers["retry-after"] == "1"
        go.set()
        for each in running:
            each.join()
        assert [answer.status for answer in found] == [200, 200]
        serves_on(server)


def test_too_many_requests_at_once_say_when_to_come_again(tmp_path: Path) -> None:
    with live(opened({"lora": saved_all(tmp_path)["lora"]}), max_requests=1, body_timeout_s=5) as server:
        start = head("Content-Type: application/json", "Content-Length: 9")
        with socket.create_connection(("127.0.0.1", server.port)) as slow:
            slow.sendall(start)
            while (answer := server.predict(GOOD)).status == 200:
                pass
            check(answer, 503, "1 requests are being answered already; ask again in 1 s")
            assert answer.headers["retry-after"] == "1"
            assert server.send("GET", "/health").status == 200
            slow.sendall(b'{"a": 1}\n')
            assert b" 400 " in slow.recv(100)
        assert server.predict(GOOD).status == 200
