"""What stands before every request: who asks, how much, how slowly, and how many at once; as ASGI middleware."""

import asyncio
import hmac
from time import perf_counter

from starlette.datastructures import Headers
from starlette.responses import JSONResponse
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from pipelines.serving.failures import RequestError
from pipelines.serving.metrics import Metrics
from pipelines.serving.settings import Settings

MAX_HEADER_BYTES = 16 << 10
OPEN_PATHS = ("/", "/health", "/ready")
"""What answers without a token: it says nothing of tuners."""


def failed(error: RequestError, metrics: Metrics) -> JSONResponse:
    """A request's error as HTTP has it; counted."""
    metrics.errors.labels(error.kind).inc()
    return JSONResponse(error.as_json(), error.status, headers=error.headers)


class Gate:
    """Lets requests through that are allowed, and counts and times all of them.

    A body is counted while it comes, so that no stated length has to be believed.
    """

    def __init__(self, app: ASGIApp, settings: Settings, metrics: Metrics) -> None:
        self._app, self._settings, self._metrics = app, settings, metrics
        self._num_open = 0

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Handle one connection's request."""
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        started, status = perf_counter(), 500

        async def noting(message: Message) -> None:
            nonlocal status
            if message["type"] == "http.response.start":
                status = message["status"]
            await send(message)

        self._num_open += 1
        try:
            try:
                self._check(scope)
            except RequestError as error:
                await failed(error, self._metrics)(scope, receive, noting)
            else:
                await self._app(scope, self._bounded(receive), noting)
        finally:
            self._num_open -= 1
            route = getattr(scope.get("route"), "path", "other")
            self._metrics.requests.labels(route, str(status)).inc()
            self._metrics.seconds.labels(route).observe(perf_counter() - started)

    def _check(self, scope: Scope) -> None:
        headers = Headers(scope=scope)
        size = sum(len(name) + len(value) for name, value in scope["headers"])
        if size > MAX_HEADER_BYTES:
            raise RequestError(
                431, "headers_too_large", f"the request's headers have {size:,} bytes; allowed: {MAX_HEADER_BYTES:,}"
            )
        if scope["path"] in OPEN_PATHS:
            return
        self._check_token(headers.get("authorization", ""))
        stated = headers.get("content-length", "0")
        if stated.isascii() and stated.isdecimal() and int(stated[:20]) > self._settings.max_body_bytes:
            raise self._too_large(f"{stated[:20]} bytes")
        if self._num_open > self._settings.max_requests:
            raise RequestError(
                503, "busy", f"{self._settings.max_requests} requests are being answered already; ask again in 1 s", 1
            )

    def _check_token(self, given: str) -> None:
        wanted = self._settings.token
        # Compared in a time that does not tell how much of it was right.
        if wanted is not None and not hmac.compare_digest(given.encode(), f"Bearer {wanted}".encode()):
            raise RequestError(
                401, "unauthorised", "this server wants a token; send the header 'Authorization: Bearer TOKEN'"
            )

    def _bounded(self, receive: Receive) -> Receive:
        num_bytes = 0

        async def bounded() -> Message:
            nonlocal num_bytes
            try:
                message = await asyncio.wait_for(receive(), self._settings.body_timeout_s)
            except TimeoutError as error:
                raise RequestError(
                    408, "too_slow", f"the body paused for more than {self._settings.body_timeout_s:g} s; send it again"
                ) from error
            num_bytes += len(message.get("body", b""))
            if num_bytes > self._settings.max_body_bytes:
                raise self._too_large("more bytes")
            return message

        return bounded

    def _too_large(self, what: str) -> RequestError:
        return RequestError(
            413,
            "body_too_large",
            f"the request's body has {what}; allowed: {self._settings.max_body_bytes:,}; send fewer or smaller images",
        )
