"""The server's process: a port, uvicorn, and a clean end."""

import ipaddress
import logging
import socket
from collections.abc import Callable

import uvicorn

from pipelines.serving.app import create_app
from pipelines.serving.failures import ServingError
from pipelines.serving.handler import Handler

MAX_HEAD_BYTES = 64 << 10
GRACE_S = 20


def open_port(host: str, port: int) -> socket.socket:
    """Take a port; 0 takes any that is free.

    Raises:
        ServingError: it cannot be had.
    """
    try:
        family = socket.AF_INET6 if ":" in host else socket.AF_INET
        return socket.create_server((host, port), family=family, backlog=512)
    except (OSError, OverflowError) as error:
        raise ServingError(
            f"{host} port {port} cannot be listened on ({error}); give a free port, or 0 for any, and an address of "
            "this machine"
        ) from error


def is_loopback(host: str) -> bool:
    """Whether only this machine can reach an address."""
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return host == "localhost"


def run(handler: Handler, listening: socket.socket, *, started: Callable[[str], object]) -> None:
    """Serve until the process is told to end; what came before is answered first.

    Args:
        handler: answers requests.
        listening: the port.
        started: is told the server's address, before it serves.
    """
    logging.basicConfig(format="%(asctime)s %(name)s %(levelname)s %(message)s")
    logging.getLogger("utuning").setLevel(logging.INFO)
    host, port = listening.getsockname()[:2]
    started(f"http://{f'[{host}]' if ':' in host else host}:{port}")
    uvicorn.Server(config(handler)).run(sockets=[listening])


def config(handler: Handler) -> uvicorn.Config:
    """uvicorn with bounds: connections, heads of requests, time to end."""
    return uvicorn.Config(
        create_app(handler),
        # Not what happens to be installed: their bounds differ.
        loop="asyncio",
        http="h11",
        ws="none",
        lifespan="on",
        log_level="warning",
        access_log=False,
        server_header=False,
        h11_max_incomplete_event_size=MAX_HEAD_BYTES,
        limit_concurrency=4 * handler.settings.max_requests,
        timeout_graceful_shutdown=GRACE_S,
    )
