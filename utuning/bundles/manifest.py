"""The manifest: what a bundle says of itself, as JSON that is checked value by value.

A manifest carries a digest of itself: the sha256 of its own file with these 64 digits replaced by zeros. So any
language can check it without writing JSON as Python does.
"""

import hashlib
import json
import math
import re
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any, Literal

from utuning.backbone import PACKAGE_SCHEME
from utuning.bundles.files import AGAIN, parse_json
from utuning.bundles.plain import read_as
from utuning.bundles.words import placement_in_words
from utuning.configs import BackboneConfig, TrialConfig, digest
from utuning.data.transforms import Preprocessing
from utuning.errors import BundleError, UTuningError

SCHEMA_VERSION = 3
DIGEST_KEY, ZEROS = "manifest_digest", "0" * 64
MAX_SIZE, MAX_OPTION = 4096, 65_536
Storage = Literal["fp32", "fp16", "bf16"]


@dataclass(frozen=True, kw_only=True)
class FileFacts:
    """A file's digest and size."""

    sha256: str
    bytes: int


@dataclass(frozen=True, kw_only=True)
class Manifest:
    """What a bundle says of itself. What follows from the trial stands there too, for readers without this package."""

    schema_version: int
    trial_id: str
    method: str
    placement: tuple[str, ...]
    backbone: BackboneConfig
    backbone_fingerprint: str
    preprocessing: Preprocessing
    class_names: tuple[str, ...]
    metrics: Mapping[str, float]
    protocol: str
    seeds: tuple[int, ...]
    dataset: str
    data_fingerprint: str
    storage: Storage
    versions: Mapping[str, str]
    files: Mapping[str, FileFacts]
    trial: TrialConfig

    @classmethod
    def of(
        cls,
        trial: TrialConfig,
        backbone: BackboneConfig,
        preprocessing: Preprocessing,
        *,
        class_names: Sequence[str],
        metrics: Mapping[str, float],
        versions: Mapping[str, str],
        storage: Storage,
        files: Mapping[str, bytes],
    ) -> "Manifest":
        """Describe a trial's result; a metric that is no finite number is missing, and `files` are the contents.

        Raises:
            BundleError: the parts do not belong together.
        """
        manifest = cls(
            schema_version=SCHEMA_VERSION,
            placement=placement_in_words(trial.tuners),
            backbone=backbone,
            preprocessing=preprocessing,
            class_names=tuple(class_names),
            metrics={name: value for name, value in metrics.items() if math.isfinite(value)},
            storage=storage,
            versions=dict(versions),
            files={name: facts_of(content) for name, content in files.items()},
            trial=trial,
            **_following(trial),
        )
        _check(manifest, "the manifest to be written")
        return manifest

    def as_bytes(self) -> bytes:
        """The manifest's file: JSON with its own digest."""
        text = json.dumps({**asdict(self), DIGEST_KEY: ZEROS}, indent=2, allow_nan=False, ensure_ascii=False).encode()
        return text.replace(ZEROS.encode(), sha256(text).encode())

    @classmethod
    def from_bytes(cls, content: bytes, name: str) -> "Manifest":
        """Read a manifest's file; `name` is what messages call it.

        Raises:
            BundleError: it was altered, is of another schema, or says what cannot be.
        """
        values = parse_json(content, name)
        _check_version(values.get("schema_version"), name)
        _check_digest(values.pop(DIGEST_KEY, None), content, name)
        try:
            manifest = read_as(cls, values, "manifest")
        except UTuningError as error:
            raise BundleError(f"{name} cannot be understood: {error}; {AGAIN}") from error
        # Over the values as they stand there: a field that a later package adds to a trial leaves the id as it was.
        _check_same(name, "trial_id", manifest.trial_id, digest(values["trial"]))
        _check(manifest, name)
        return manifest


def facts_of(content: bytes) -> FileFacts:
    """Describe a file's content."""
    return FileFacts(sha256=sha256(content), bytes=len(content))


def sha256(content: bytes) -> str:
    """Hex digits of the sha256."""
    return hashlib.sha256(content).hexdigest()


def _following(trial: TrialConfig) -> dict[str, Any]:
    """The fields that follow from the trial."""
    return {
        "trial_id": trial.trial_id,
        "method": trial.method,
        "backbone_fingerprint": trial.backbone_fingerprint,
        "protocol": trial.protocol,
        "seeds": (trial.train.seed,),
        "dataset": trial.dataset,
        "data_fingerprint": trial.data_fingerprint,
    }


def _check_version(version: Any, name: str) -> None:
    if version == SCHEMA_VERSION and type(version) is int:
        return
    newer = isinstance(version, int) and version > SCHEMA_VERSION
    then = "upgrade it" if newer else "train again, or read it with an older package"
    raise BundleError(f"{name} has schema version {str(version)[:20]}, this package reads {SCHEMA_VERSION}; {then}")


def _check_digest(stated: Any, content: bytes, name: str) -> None:
    if not isinstance(stated, str) or not re.fullmatch("[0-9a-f]{64}", stated):
        raise BundleError(f"{name} has no {DIGEST_KEY} of 64 hex digits; {AGAIN}")
    found = sha256(content.replace(stated.encode(), ZEROS.encode()))
    if found != stated:
        raise BundleError(f"{name} was altered: its own digest is {found[:16]}…, it says {stated[:16]}…; {AGAIN}")


def _check(manifest: Manifest, name: str) -> None:
    """Check what types alone do not say."""
    for field, value in _following(manifest.trial).items():
        if field != "trial_id":
            _check_same(name, field, getattr(manifest, field), value)
    _check_same(name, "backbone.name", manifest.backbone.name, manifest.trial.backbone)
    _check_same(name, "number of class_names", len(manifest.class_names), manifest.trial.num_classes)
    if len(set(manifest.class_names)) != len(manifest.class_names) or not manifest.class_names:
        raise BundleError(
            f"{name} has class_names of which {len(set(manifest.class_names))} differ; allowed: each once"
        )
    _check_backbone(manifest.backbone, manifest.preprocessing, name)


def _check_same(name: str, field: str, stated: Any, found: Any) -> None:
    if stated != found:
        raise BundleError(f"{name} says that {field} is {stated!r}, and its trial that it is {found!r}; {AGAIN}")


def _check_backbone(backbone: BackboneConfig, preprocessing: Preprocessing, name: str) -> None:
    """A bundle names a backbone; it may not choose files to unpickle, packages to import, or sizes beyond reason."""
    sizes = {"backbone.img_size": backbone.img_size or 1, "preprocessing.resize": preprocessing.resize}
    for field, size in sizes.items():
        if not 1 <= size <= MAX_SIZE:
            raise BundleError(f"{name} has {field} {size}; allowed: 1 to {MAX_SIZE}; {AGAIN}")
    for key, value in backbone.options.items():
        # timm's own arguments for where weights lie, and what would make another thing than a classifier's trunk.
        if re.match("pretrained|checkpoint|cache|features_only|out_indices|scriptable|exportable|num_classes", key):
            raise BundleError(f"{name} has the backbone option {key!r}; allowed: options of the model itself; {AGAIN}")
        if not _plain(value):
            raise BundleError(
                f"{name} has the backbone option {key!r} = {str(value)[:60]}; allowed: text, true, false, numbers up "
                f"to {MAX_OPTION:,} and lists of them; {AGAIN}"
            )
    weights = backbone.weights
    if weights.startswith(PACKAGE_SCHEME) and not re.fullmatch(r"package://(\w+/)+[\w-][\w.-]*", weights):
        raise BundleError(f"{name} has backbone weights {weights[:80]!r}; allowed: package://PACKAGE/FILE; {AGAIN}")


def _plain(value: Any) -> bool:
    if isinstance(value, list | tuple):
        return len(value) <= MAX_SIZE and all(map(_plain, value))
    if isinstance(value, int | float):
        return abs(value) <= MAX_OPTION
    return value is None or isinstance(value, str)
