"""Is this machine ready? Versions, devices, disk and the tracking store, in words."""

import shutil
from collections.abc import Callable, Iterator
from importlib.metadata import PackageNotFoundError, version

from rich.console import Console

from pipelines import provenance
from pipelines.workspace import Workspace
from utuning.data.space import free_bytes, human_bytes
from utuning.errors import UTuningError

LOW_DISK_BYTES = 5_000_000_000


class Trouble(Exception):
    """A finding that needs the user."""


def examine(workspace: Workspace, tracking_uri: str, console: Console) -> bool:
    """Print one line for each check; gives whether all is well."""
    well = True
    for name, check in _checks(workspace, tracking_uri):
        try:
            console.print(f"[green]ok[/green]      {name}: {check()}", highlight=False, soft_wrap=True)
        except (Trouble, UTuningError) as trouble:
            well = False
            console.print(f"[red]trouble[/red] {name}: {trouble}", highlight=False, soft_wrap=True)
    return well


def _checks(workspace: Workspace, tracking_uri: str) -> Iterator[tuple[str, Callable[[], str]]]:
    yield "versions", lambda: ", ".join(f"{name} {found}" for name, found in provenance.versions().items())
    yield "torch and torchvision", _torchvision
    yield "devices", _devices
    yield "ray", _ray
    yield "disk", lambda: _disk(workspace)
    yield "tracking store", lambda: _tracking(workspace, tracking_uri)


def _torchvision() -> str:
    try:
        import torchvision
    except (RuntimeError, ImportError) as error:
        raise Trouble(mismatch(version("torch"), _version("torchvision"), str(error))) from error
    return f"torchvision {torchvision.__version__} imports"


def mismatch(torch_version: str, torchvision_version: str, error: str) -> str:
    """Say in words what a failing import of torchvision means."""
    if "nms" in error or "+cpu" in torch_version:
        return (
            f"torch {torch_version} and torchvision {torchvision_version} are of different builds: a CPU-only torch "
            "cannot load a CUDA torchvision (it fails with 'operator torchvision::nms does not exist'). Install both "
            "from the same place: pip install --force-reinstall torch torchvision, or both from a CPU index"
        )
    return f"torchvision {torchvision_version} does not import beside torch {torch_version}: {error}"


def _devices() -> str:
    import torch

    if torch.cuda.is_available():
        names = [torch.cuda.get_device_name(number) for number in range(torch.cuda.device_count())]
        return f"{len(names)} GPUs: {', '.join(names)}"
    return f"no GPU; {provenance.machine()['cores']} CPU cores, {torch.get_num_threads()} threads for torch"


def _ray() -> str:
    missing = [name for name in ("aiohttp", "opencensus", "prometheus_client") if _version(name) == "missing"]
    if missing:
        raise Trouble(
            f"Ray's dashboard parts are missing ({', '.join(missing)}); without them a cluster that is started here "
            "cannot free the workers of a trial whose controller was killed: pip install 'ray[default]'"
        )
    return f"ray {version('ray')} with its dashboard parts"


def _disk(workspace: Workspace) -> str:
    free = free_bytes(workspace.root)
    if free < LOW_DISK_BYTES:
        raise Trouble(f"only {human_bytes(free)} are free for {workspace.root}; free some space or use --home")
    shared_memory = shutil.disk_usage("/dev/shm").free
    return f"{human_bytes(free)} free for {workspace.root}, {human_bytes(shared_memory)} of shared memory for Ray"


def _tracking(workspace: Workspace, tracking_uri: str) -> str:
    from pipelines.tracking.store import safe
    from pipelines.tracking.tracker import Tracker

    spaces = Tracker.open(tracking_uri, workspace.artifacts).spaces()
    return f"{safe(tracking_uri)} answers; searched spaces: {', '.join(spaces) or 'none yet'}"


def _version(name: str) -> str:
    try:
        return version(name)
    except PackageNotFoundError:
        return "missing"
