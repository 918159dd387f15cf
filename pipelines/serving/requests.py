"""What a client asks for, from JSON or from a form."""

import base64
import binascii
import json
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from pipelines.serving.failures import NUM_SHOWN, RequestError, shown
from utuning.bundles.plain import read_as
from utuning.errors import ConfigError, nearest

ALL = "all"
MAX_TOP = 1000
MAX_ID = 128
FIELDS = ("images", "tuners", "top", "id")


@dataclass(frozen=True, kw_only=True)
class Body:
    """The JSON of a request: images in base64, tuners by name."""

    images: tuple[str, ...]
    tuners: str | tuple[str, ...] | None = None
    top: int = 5
    id: str | None = None


@dataclass(frozen=True, kw_only=True)
class PredictRequest:
    """Encoded images by what messages call them; the tuners' names, or None where none was named; classes to name."""

    images: tuple[tuple[str, bytes], ...]
    tuners: tuple[str, ...] | None
    top: int
    id: str | None

    def __post_init__(self) -> None:
        """Check the values."""
        if not self.images:
            raise bad_request("the request has no image; give one or more as 'images'")
        if not 1 <= self.top <= MAX_TOP:
            raise bad_request(f"top is {self.top:,}; allowed: 1 to {MAX_TOP:,} classes; give another number")
        if self.tuners == ():
            raise bad_request(f"tuners is empty; name one or more, or {ALL!r}")
        if self.id is not None and not (0 < len(self.id) <= MAX_ID and self.id.isascii() and self.id.isprintable()):
            raise bad_request(f"id is {shown(self.id)}; allowed: up to {MAX_ID} printable ASCII characters")


def bad_request(message: str) -> RequestError:
    """A request that nobody can understand."""
    return RequestError(400, "bad_request", message)


def from_json(content: bytes, request_id: str | None = None) -> PredictRequest:
    """Read a JSON request.

    Raises:
        RequestError: no JSON, unknown or missing keys, values of another type, or images that are no base64.
    """
    try:
        values = json.loads(content, parse_constant=_refuse)
    except (ValueError, RecursionError) as error:
        said = "it is nested too deeply" if isinstance(error, RecursionError) else error
        raise bad_request(f"the body is no valid JSON ({said}); give an object with {', '.join(FIELDS)}") from error
    _check_keys(values if isinstance(values, dict) else (), "the request")
    try:
        body = read_as(Body, values, "the request")
    except ConfigError as error:
        raise bad_request(str(error)) from error
    return PredictRequest(
        images=tuple((f"images[{place}]", _decoded(text, place)) for place, text in enumerate(body.images)),
        tuners=(body.tuners,) if isinstance(body.tuners, str) else body.tuners,
        top=body.top,
        id=body.id if body.id is not None else request_id,
    )


def from_form(
    files: Sequence[tuple[str, bytes]], fields: Mapping[str, Sequence[str]], request_id: str | None = None
) -> PredictRequest:
    """Read a form: its files are the images, and its other fields the rest.

    Raises:
        RequestError: unknown fields, or values that cannot be.
    """
    _check_keys(fields, "the form")
    top, given_id = _single(fields, "top", "5"), _single(fields, "id", "")
    if not (top.isascii() and top.isdecimal() and len(top) < 10):
        raise bad_request(f"top is {shown(top)}; allowed: 1 to {MAX_TOP:,} classes; give a whole number")
    return PredictRequest(
        images=tuple(files),
        tuners=tuple(fields["tuners"]) if "tuners" in fields else None,
        top=int(top),
        id=given_id or request_id,
    )


def _check_keys(keys: Iterable[str], where: str) -> None:
    for key in keys:
        if key not in FIELDS:
            # Cut: looking for a near name takes time that grows with the square of its length.
            raise bad_request(f"{where} has an unknown key {shown(key)}; {nearest(key[:NUM_SHOWN], FIELDS)}")


def _single(fields: Mapping[str, Sequence[str]], key: str, otherwise: str) -> str:
    values = fields.get(key, [otherwise])
    if len(values) != 1:
        raise bad_request(f"the form has {key!r} {len(values)} times; give it once")
    return values[0]


def _decoded(text: str, place: int) -> bytes:
    try:
        return base64.b64decode(text, validate=True)
    except (binascii.Error, ValueError) as error:
        raise bad_request(
            f"images[{place}] is {shown(text)}, which is no base64 ({error}); encode the bytes of an image file"
        ) from error


def _refuse(constant: str) -> Any:
    raise ValueError(f"{constant} is no JSON number")
