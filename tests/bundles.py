"""Bundles for tests: small trained ones, and ways to alter them as somebody would who knows the format."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file, save_file

from tests.tools import batch, trial_of
from utuning.backbone import Backbone
from utuning.bundles.bundle import MANIFEST, TENSORS, save_bundle
from utuning.bundles.manifest import DIGEST_KEY, ZEROS, sha256
from utuning.cohort import Cohort
from utuning.configs import TrialConfig, TunerConfig, digest
from utuning.member import Member

NAMES = ("ant", "bee", "cat", "dog", "eel")
METRICS = {"val/accuracy": 0.5, "val/loss": 1.25, "epoch": 2}


def trial(backbone: Backbone, *tuners: TunerConfig, **values: object) -> TrialConfig:
    own = {"backbone": backbone.config.name, "backbone_fingerprint": backbone.fingerprint}
    return trial_of(*tuners, **{"num_classes": len(NAMES), **own, **values})


def trained(backbone: Backbone, config: TrialConfig) -> Member:
    member = Member.from_trial(backbone, config)
    Cohort(backbone, [member]).step(batch())
    return member


def save(to: Path, backbone: Backbone, *tuners: TunerConfig, **values: Any) -> tuple[Path, Member]:
    config = trial(backbone, *tuners)
    member = trained(backbone, config)
    given = {"class_names": NAMES, "metrics": METRICS, "versions": {"torch": "1"}, **values}
    return save_bundle(to, member, backbone=backbone, trial=config, **given), member


def seal(path: Path, values: dict[str, Any]) -> None:
    """Write a manifest with the digest of itself."""
    text = json.dumps({**values, DIGEST_KEY: ZEROS}, indent=2).encode()
    (path / MANIFEST).write_bytes(text.replace(ZEROS.encode(), sha256(text).encode()))


def rewrite(path: Path, change: Callable[[dict[str, Any]], object]) -> None:
    """Alter a manifest, and give it the digest of its altered self."""
    values = json.loads((path / MANIFEST).read_text())
    values.pop(DIGEST_KEY)
    change(values)
    seal(path, values)


def retrial(path: Path, change: Callable[[dict[str, Any]], object]) -> None:
    """Alter the trial in a manifest, and give it the id of its altered self."""

    def both(values: dict[str, Any]) -> None:
        change(values["trial"])
        values["trial_id"] = digest(values["trial"])

    rewrite(path, both)


def restate(path: Path, name: str = TENSORS) -> None:
    """Put what a file is now into the manifest."""
    content = (path / name).read_bytes()
    rewrite(path, lambda v: v["files"].update({name: {"sha256": sha256(content), "bytes": len(content)}}))


def replace(path: Path, content: bytes, name: str = TENSORS) -> None:
    """Give a file another content, and say so in the manifest."""
    (path / name).write_bytes(content)
    restate(path, name)


def retensor(path: Path, change: Callable[[dict[str, torch.Tensor]], object], name: str = TENSORS) -> None:
    """Alter tensors, and say so in the manifest."""
    tensors = load_file(path / name)
    change(tensors)
    save_file(tensors, path / name)
    restate(path, name)
