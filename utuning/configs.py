"""What a trial is, as plain values: no torch, no files, so that a CLI and a scheduler can hold them.

A `TrialConfig` is an identity: two equal ones are the same trial, wherever its files lie. `trial_id` hashes it; that id
is the Tune trial's name, the MLflow tag and the manifest's field.
"""

import hashlib
import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from typing import Any, Literal

SHORT_SETTINGS = {"bottleneck_dim": "r", "lora_rank": "r", "num_tokens": "m"}
Depths = str | tuple[int, ...]
Precision = Literal["auto", "fp32", "bf16"]
Recipe = Literal["vpt", "rrc", "none"]
Views = int | Literal["online"]
CacheDtype = Literal["fp32", "fp16", "bf16"]


@dataclass(frozen=True, kw_only=True)
class BackboneConfig:
    """A timm model and where its weights come from.

    `weights` is `timm` (timm's own download), `none` (random, always the same), a `.safetensors` path, or `package://PACKAGE/FILE`.
    `options` are keyword arguments of `timm.create_model`; `None` fields take timm's own configuration.
    """

    name: str
    weights: str = "timm"
    img_size: int | None = None
    crop_pct: float | None = None
    mean: tuple[float, float, float] | None = None
    std: tuple[float, float, float] | None = None
    options: Mapping[str, Any] = field(default_factory=dict)


@dataclass(frozen=True, kw_only=True)
class TunerConfig:
    """One tuner of a trial: a row of the tuner table, its placement (op kinds x depths) and its own settings.

    Without `ops` or `depths` it stands where its row says.
    """

    method: str
    ops: tuple[str, ...] = ()
    depths: Depths | None = None
    settings: Mapping[str, Any] = field(default_factory=dict)


@dataclass(frozen=True, kw_only=True)
class TrainConfig:
    """How a member trains. `batch_size` is global, over all workers; `drop_path` starts at the first tuned depth."""

    lr: float
    epochs: int
    batch_size: int = 64
    weight_decay: float = 1e-4
    warmup_epochs: float = 1.0
    label_smoothing: float = 0.0
    drop_path: float = 0.0
    seed: int = 0


@dataclass(frozen=True, kw_only=True)
class TrialConfig:
    """Everything that decides a trial's result; no tuners means a linear probe.

    `protocol` names where val comes from and what a final model is trained on; `train_splits` are the splits that this
    trial trains on: train in a search.
    `views` is how many random crops an image has; `online` draws a new one in every epoch, and nothing is cached.
    `cache_dtype` is what the frozen states of views are stored in.
    """

    dataset: str
    data_fingerprint: str
    backbone: str
    backbone_fingerprint: str
    num_classes: int
    protocol: str
    train: TrainConfig
    tuners: tuple[TunerConfig, ...] = ()
    recipe: Recipe = "vpt"
    precision: Precision = "auto"
    views: Views = "online"
    cache_dtype: CacheDtype = "fp32"
    train_splits: tuple[str, ...] = ("train",)

    @property
    def trial_id(self) -> str:
        """Twelve hex digits of the sha256 of this configuration."""
        return digest(asdict(self))

    @property
    def config_id(self) -> str:
        """The same for all seeds, and for what is trained again on more splits: what a leaderboard groups by."""
        values = asdict(self)
        values["train"].pop("seed")
        values.pop("train_splits")
        return digest(values)

    @property
    def cohort_key(self) -> str:
        """The same for all trials that can train as one cohort: data, backbone, batch stream and precision."""
        values = asdict(self)
        train = values.pop("train")
        for own in ("tuners", "protocol"):
            values.pop(own)
        return digest({**values, "batch_size": train["batch_size"], "data_seed": train["seed"]})

    @property
    def method(self) -> str:
        """The tuners' names joined, or `linear`."""
        return "+".join(dict.fromkeys(tuner.method for tuner in self.tuners)) or "linear"

    @property
    def label(self) -> str:
        """A readable name without the seed, such as `attn+mlp@all r16 lr3e-3`."""
        parts = [_tuner_label(tuner) for tuner in self.tuners] or ["linear"]
        return f"{' & '.join(parts)} lr{short(self.train.lr)}"

    @property
    def name(self) -> str:
        """The label with its seed: the MLflow run's name."""
        return f"{self.label} seed{self.train.seed}"

    def as_dict(self) -> dict[str, Any]:
        """Plain values that `from_dict` reads back."""
        return asdict(self)

    @classmethod
    def from_dict(cls, values: Mapping[str, Any]) -> "TrialConfig":
        """Rebuild a configuration that went through JSON, where tuples became lists."""
        tuners = tuple(
            TunerConfig(**{**tuner, "ops": tuple(tuner["ops"]), "depths": _depths(tuner["depths"])})
            for tuner in values["tuners"]
        )
        splits = tuple(values.get("train_splits", ("train",)))
        return cls(**{**values, "tuners": tuners, "train": TrainConfig(**values["train"]), "train_splits": splits})


def digest(values: Mapping[str, Any], num_digits: int = 12) -> str:
    """Hash plain values in their canonical JSON form: so many hex digits."""
    text = json.dumps(values, sort_keys=True, separators=(",", ":"))
    return hashlib.sha256(text.encode()).hexdigest()[:num_digits]


def short(number: float) -> str:
    """Write a number as names carry it: 0.003 -> 3e-3, 0.0025 -> 2.5e-3."""
    mantissa, exponent = f"{number:.1e}".split("e")
    return f"{mantissa.removesuffix('.0')}e{int(exponent)}"


def _depths(value: Any) -> Depths | None:
    return value if value is None or isinstance(value, str) else tuple(value)


def _tuner_label(tuner: TunerConfig) -> str:
    """Such as `attn+mlp@all r16`; what is a P-Adapter's needs no method's name."""
    kinds = "+".join(tuner.ops)
    method = "" if tuner.method == "p_adapter" else tuner.method
    depths = "" if tuner.depths is None else f"@{_depths_label(tuner.depths)}"
    shorts = [f"{mark}{tuner.settings[key]}" for key, mark in SHORT_SETTINGS.items() if key in tuner.settings]
    extras = [f"{key}={value}" for key, value in sorted(tuner.settings.items()) if key not in SHORT_SETTINGS]
    place = f"{method} {kinds}{depths}" if kinds else f"{method}{depths}"
    return " ".join(word for word in (place.strip(), *shorts, *extras) if word)


def _depths_label(depths: Depths) -> str:
    return depths if isinstance(depths, str) else ",".join(map(str, depths))
