"""A cluster profile: where trials run and what each one gets."""

from collections.abc import Mapping
from dataclasses import dataclass, fields, replace
from pathlib import Path
from typing import Any, Final, Literal

import yaml

from utuning.errors import ClusterError, nearest

HERE = Path(__file__).parent
MAY_BE_AUTO = ("num_workers", "gpus_per_worker")
MAY_BE_NULL = ("max_cohorts",)
LOWEST = {
    "num_workers": 1,
    "cpus_per_worker": 1,
    "gpus_per_worker": 0,
    "max_cohorts": 1,
    "max_members": 1,
    "cache_gb": 0,
}


AUTO: Final = "auto"
MOST_WORKERS = 8


@dataclass(frozen=True, kw_only=True)
class Layout:
    """How a search uses a cluster: so many cohorts at a time, each with so many workers."""

    num_cohorts: int
    num_workers: int
    cpus_per_worker: int
    gpus_per_worker: int


@dataclass(frozen=True, kw_only=True)
class Profile:
    """Resources of one cohort, and the cluster that has them. Field meanings stand in `cluster/local.yaml`."""

    name: str
    address: str | None = None
    num_workers: int | Literal["auto"] = AUTO
    cpus_per_worker: int = 1
    gpus_per_worker: int | Literal["auto"] = AUTO
    max_cohorts: int | None = None
    max_members: int = 8
    storage: str | None = None
    cache: str | None = None
    cache_gb: int = 4

    def layout(self, cpus: float, gpus: float, *, batch_size: int, num_cohorts: int = 1) -> Layout:
        """Fit cohorts into a cluster.

        Left to choose, it gives each of the `num_cohorts` that a search has the same share of it, as many workers as
        `batch_size` can be divided over evenly.

        Raises:
            ClusterError: not even one fits.
        """
        per_worker = int(gpus >= 1) if isinstance(self.gpus_per_worker, str) else self.gpus_per_worker
        room = int(cpus // self.cpus_per_worker)
        room = min(room, int(gpus // per_worker)) if per_worker else room
        chosen = _most_workers(room // max(1, min(num_cohorts, room)), batch_size)
        num_workers = chosen if isinstance(self.num_workers, str) else self.num_workers
        if (fits := room // num_workers) < 1:
            raise ClusterError(
                f"profile {self.name!r} wants {num_workers} workers of {self.cpus_per_worker} CPUs and "
                f"{per_worker} GPUs a cohort; the cluster has {cpus:g} CPUs and {gpus:g} GPUs; "
                "lower num_workers or cpus_per_worker"
            )
        return Layout(
            num_cohorts=min(fits, self.max_cohorts or fits),
            num_workers=num_workers,
            cpus_per_worker=self.cpus_per_worker,
            gpus_per_worker=per_worker,
        )


def _most_workers(room: int, batch_size: int) -> int:
    """As many workers as there is room for, of which each gets the same share of a batch."""
    return next((count for count in range(min(room, MOST_WORKERS), 1, -1) if batch_size % count == 0), 1)


def load_profile(name: str, num_workers: int | None = None) -> Profile:
    """Find a profile by name, read it from a YAML file, or make one for the address of a running cluster.

    Raises:
        ClusterError: an unknown name, or a profile with unknown or wrong values.
    """
    profile = _find(name)
    return replace(profile, num_workers=num_workers) if num_workers else profile


def _find(name: str) -> Profile:
    known = {file.stem: file for file in HERE.glob("*.yaml")}
    if name in known:
        return _read(known[name])
    if name.endswith((".yaml", ".yml")):
        return _read(Path(name))
    if name == "auto" or ":" in name:
        return replace(_read(known["local"]), name=name, address=name)
    raise ClusterError(
        f"{name!r} is no cluster profile and no address; {nearest(name, known)}; "
        "or give a YAML file, HOST:PORT, ray://HOST:PORT, or auto"
    )


def _read(path: Path) -> Profile:
    try:
        values = yaml.safe_load(path.read_text(encoding="utf-8"))
    except (OSError, yaml.YAMLError) as error:
        raise ClusterError(f"cluster profile {path} cannot be read: {error}") from error
    if not isinstance(values, Mapping):
        raise ClusterError(f"cluster profile {path} is no mapping; see cluster/local.yaml for its keys")
    allowed = [field.name for field in fields(Profile)]
    for key in values:
        if key not in allowed:
            raise ClusterError(f"cluster profile {path}: unknown key {key!r}; {nearest(str(key), allowed)}")
    return _checked(Profile(**{"name": path.stem, **values}), path)


def _checked(profile: Profile, path: Path) -> Profile:
    for key, low in LOWEST.items():
        value: Any = getattr(profile, key)
        free = {AUTO} if key in MAY_BE_AUTO else {None} if key in MAY_BE_NULL else set()
        if value not in free and (not isinstance(value, int) or isinstance(value, bool) or value < low):
            raise ClusterError(f"cluster profile {path}: {key} is {value!r}; give a whole number of at least {low}")
    return profile
