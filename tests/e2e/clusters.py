"""A Ray cluster of two node processes, each with one CPU, on loopback."""

import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path


@contextmanager
def two_nodes() -> Iterator[str]:
    """Give the address of a head and a second node; only their own processes are ended."""
    port = free_port()
    address = f"127.0.0.1:{port}"
    head = ["--head", f"--port={port}", f"--dashboard-port={free_port()}"]
    nodes = [start_node(head)]
    try:
        wait_until_open(port)
        nodes.append(start_node([f"--address={address}"]))
        wait_until_alive(address, len(nodes))
        yield address
    finally:
        for node in reversed(nodes):
            os.killpg(node.pid, signal.SIGTERM)
            node.wait(timeout=60)


def start_node(role: list[str]) -> subprocess.Popen[bytes]:
    """Start one node process in the foreground of a process group of its own."""
    common = ["--num-cpus=1", "--node-ip-address=127.0.0.1", "--disable-usage-stats", "--block"]
    command = [sys.executable, "-m", "ray.scripts.scripts", "start", *role, *common]
    quiet = subprocess.DEVNULL
    return subprocess.Popen(command, env=cluster_environment(), stdout=quiet, stderr=quiet, start_new_session=True)


def cluster_environment() -> dict[str, str]:
    """Ray protects a head with a token where the user has one; its nodes have to show it."""
    token = Path.home() / ".ray" / "auth_token"
    return {**os.environ, **({"RAY_AUTH_MODE": "token"} if token.exists() else {})}


def wait_until_open(port: int) -> None:
    for _ in range(300):
        with socket.socket() as probe:
            if probe.connect_ex(("127.0.0.1", port)) == 0:
                return
        time.sleep(0.2)
    raise AssertionError("the head did not come up")


def wait_until_alive(address: str, num_nodes: int) -> None:
    count = (
        f"import ray; ray.init(address={address!r}, log_to_driver=False); print(sum(n['Alive'] for n in ray.nodes()))"
    )
    for _ in range(20):
        done = subprocess.run([sys.executable, "-c", count], env=cluster_environment(), capture_output=True, text=True)
        if done.returncode == 0 and int(done.stdout.split()[-1]) >= num_nodes:
            return
        time.sleep(2)
    raise AssertionError(f"{address} did not come up: {done.stderr[-500:]}")


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])
