"""A cluster profile: where trials run and what each one gets."""

from collections.abc import Mapping
from dataclasses import dataclass, fields, replace
from pathlib import Path
from typing import Any, Literal

import yaml

from utuning.errors import ClusterError, nearest

HERE = Path(__file__).parent


@dataclass(frozen=True, kw_only=True)
class Profile:
    """Resources of one trial, and the cluster that has them. Field meanings stand in `cluster/local.yaml`."""

    name: str
    address: str | None = None
    num_workers: int = 1
    cpus_per_worker: int = 1
    gpus_per_worker: int | Literal["auto"] = "auto"
    max_concurrent_trials: int | None = None
    storage: str | None = None

    def gpus(self, cluster_gpus: float) -> int:
        """GPUs of each worker, given how many the cluster has."""
        if self.gpus_per_worker == "auto":
            return 1 if cluster_gpus >= 1 else 0
        return self.gpus_per_worker

    def concurrent_trials(self, cluster_cpus: float, cluster_gpus: float) -> int:
        """How many trials' worker groups fit at once.

        Raises:
            ClusterError: not even one does.
        """
        fits = int(cluster_cpus // (self.num_workers * self.cpus_per_worker))
        gpus = self.gpus(cluster_gpus) * self.num_workers
        fits = min(fits, int(cluster_gpus // gpus)) if gpus else fits
        if fits < 1:
            raise ClusterError(
                f"profile {self.name!r} wants {self.num_workers} workers of {self.cpus_per_worker} CPUs and "
                f"{gpus // self.num_workers} GPUs a trial; "
                f"the cluster has {cluster_cpus:g} CPUs and {cluster_gpus:g} GPUs; "
                "lower num_workers or cpus_per_worker"
            )
        return min(fits, self.max_concurrent_trials or fits)


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
    for key, low in (("num_workers", 1), ("cpus_per_worker", 1), ("gpus_per_worker", 0), ("max_concurrent_trials", 1)):
        value: Any = getattr(profile, key)
        if value not in (None, "auto") and (not isinstance(value, int) or isinstance(value, bool) or value < low):
            raise ClusterError(f"cluster profile {path}: {key} is {value!r}; give a whole number of at least {low}")
    return profile
