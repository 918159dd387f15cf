"""The routes: HTTP to the handler and back. Every error is JSON with a kind and a message."""

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

from fastapi import FastAPI, Request, Response
from fastapi.responses import HTMLResponse
from starlette.datastructures import UploadFile
from starlette.exceptions import HTTPException
from starlette.requests import ClientDisconnect

from pipelines.serving.failures import RequestError, shown
from pipelines.serving.gate import Gate, failed
from pipelines.serving.handler import Handler
from pipelines.serving.page import page
from pipelines.serving.requests import FIELDS, PredictRequest, bad_request, from_form, from_json

ROUTES = "POST /v1/predict, GET /v1/tuners, PUT and DELETE /v1/tuners/NAME, GET /health, /ready, /metrics and /"
KINDS = {404: "unknown_path", 405: "wrong_method"}


def create_app(handler: Handler) -> FastAPI:
    """The application around a handler, which lives as long as it."""

    @asynccontextmanager
    async def lifespan(_: FastAPI) -> AsyncIterator[None]:
        handler.start()
        yield
        await handler.close()

    app = FastAPI(title="U-Tuning", lifespan=lifespan, docs_url=None, redoc_url=None, openapi_url=None)
    app.add_middleware(Gate, settings=handler.settings, metrics=handler.metrics)
    _handle_errors(app, handler)
    _add_routes(app, handler)
    return app


def _add_routes(app: FastAPI, handler: Handler) -> None:
    html, html_headers = page()

    @app.get("/", include_in_schema=False)
    async def index() -> Response:
        return HTMLResponse(html, headers=html_headers)

    @app.post("/v1/predict")
    async def predict(request: Request) -> dict[str, Any]:
        return await handler.predict(await _read(request, handler))

    @app.get("/v1/tuners")
    async def tuners() -> dict[str, Any]:
        return {"tuners": handler.tuners(), "loading": handler.settings.allow_load}

    @app.put("/v1/tuners/{name}")
    async def load(name: str) -> dict[str, Any]:
        return await handler.load(name)

    @app.delete("/v1/tuners/{name}")
    async def unload(name: str) -> dict[str, Any]:
        return await handler.unload(name)

    @app.get("/health")
    async def health() -> dict[str, str]:
        return {"status": "ok"}

    @app.get("/ready")
    async def ready() -> dict[str, str]:
        if not handler.ready:
            raise RequestError(503, "not_ready", "no tuner is loaded, or the server is ending; ask again later", 1)
        return {"status": "ready"}

    @app.get("/metrics")
    async def metrics() -> Response:
        return Response(handler.metrics.text(), media_type=handler.metrics.content_type)


def _handle_errors(app: FastAPI, handler: Handler) -> None:
    @app.exception_handler(RequestError)
    async def refused(_: Request, error: RequestError) -> Response:
        return failed(error, handler.metrics)

    @app.exception_handler(ClientDisconnect)
    async def gone(_: Request, error: ClientDisconnect) -> Response:
        return failed(bad_request("the client left before its request was complete"), handler.metrics)

    @app.exception_handler(HTTPException)
    async def no_route(request: Request, error: HTTPException) -> Response:
        if error.status_code in KINDS:
            said = f"{request.method} {shown(request.url.path)} is nothing here; there are: {ROUTES}"
        else:
            # What Starlette says of a form that it cannot read.
            said = f"{str(error.detail).rstrip('.')}; send multipart/form-data with files as 'images'"
        return failed(
            RequestError(error.status_code, KINDS.get(error.status_code, "bad_request"), said), handler.metrics
        )

    @app.exception_handler(Exception)
    async def broken(_: Request, error: Exception) -> Response:
        said = "the server failed at this request, and goes on; its log says why"
        return failed(RequestError(500, "internal", said), handler.metrics)


async def _read(request: Request, handler: Handler) -> PredictRequest:
    """The request that a body holds."""
    kind = request.headers.get("content-type", "").partition(";")[0].strip().lower()
    request_id = request.headers.get("x-request-id")
    if kind == "application/json":
        # In a thread: parsing megabytes would keep other requests waiting.
        return await handler.in_thread(from_json, await request.body(), request_id)
    if kind == "multipart/form-data":
        return await _read_form(request, handler, request_id)
    raise RequestError(
        415,
        "wrong_content_type",
        f"the body's content type is {shown(kind)}; allowed: multipart/form-data with files as 'images', or "
        "application/json with base64 as 'images'",
    )


async def _read_form(request: Request, handler: Handler, request_id: str | None) -> PredictRequest:
    files: list[tuple[str, bytes]] = []
    fields: dict[str, list[str]] = {}
    most = handler.settings.max_images
    async with request.form(max_files=most, max_fields=max(1000, most)) as form:
        for key, value in form.multi_items():
            if not isinstance(value, UploadFile):
                fields.setdefault(key, []).append(value)
            elif key == FIELDS[0]:
                files.append((value.filename or f"images[{len(files)}]", await value.read()))
            else:
                raise bad_request(f"the form has a file as {shown(key)}; give image files as {FIELDS[0]!r}")
    return from_form(files, fields, request_id)
