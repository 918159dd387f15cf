"""A LoRA that `peft` saved for a timm model, as tuners and tensors of this package; `peft` is not needed for it."""

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, cast

import torch
from torch import Tensor, nn

from utuning.architectures import OpSite
from utuning.backbone import Backbone
from utuning.bundles.files import parse_json, read_file
from utuning.bundles.peft_export import CONFIG, PREFIX, WEIGHTS, PeftAdapter, classifiers
from utuning.bundles.tensor_file import read_tensors
from utuning.configs import TunerConfig
from utuning.errors import BundleError, ConfigError
from utuning.tuners.lora import find_updates, num_slices

MAX_BYTES = {CONFIG: 8 << 20, WEIGHTS: 4 << 30}
UNSUPPORTED = (
    "use_dora",
    "lora_bias",
    "layer_replication",
    "target_parameters",
    "trainable_token_indices",
    "use_qalora",
    "use_bdlora",
    "alora_invocation_tokens",
    "fan_in_fan_out",
    "megatron_config",
)
"""Settings of peft's LoRA that make another map than W x + s B A x."""
Update = tuple[Tensor, Tensor, float]
"""A (r, D_in), B (width, r) and their scale."""


@dataclass(frozen=True, kw_only=True)
class Imported:
    """What a `TrialConfig` names, and what `Member.load_tensors` takes."""

    tuners: tuple[TunerConfig, ...]
    tensors: Mapping[str, Tensor]
    num_classes: int


def read_peft(folder: Path) -> PeftAdapter:
    """Read a folder that peft's `save_pretrained` wrote.

    Raises:
        BundleError: files that are missing, damaged, or pickles.
    """
    for name in MAX_BYTES:
        if not (folder / name).is_file():
            raise BundleError(
                f"{folder} holds no {name}; allowed: a folder that peft's save_pretrained wrote as safetensors; save "
                "it again"
            )
    config = parse_json(read_file(folder / CONFIG, MAX_BYTES[CONFIG]), str(folder / CONFIG))
    tensors = read_tensors(read_file(folder / WEIGHTS, MAX_BYTES[WEIGHTS]), str(folder / WEIGHTS))
    return PeftAdapter(config=config, tensors=tensors)


def from_peft(adapter: PeftAdapter, backbone: Backbone) -> Imported:
    """Translate an adapter into LoRA tuners at the backbone's op sites, and a head.

    An update of a fused layer stays one update of the whole layer, unless each of its ranks reaches one slice alone, as
    in what `to_peft` writes: then it is q and v (or whichever) again.

    Raises:
        ConfigError: something else than plain LoRA of linear layers inside ops, or no head.
    """
    _check_plain(adapter.config)
    head, factors = _sorted(adapter.tensors, classifiers(backbone))
    tuners: list[TunerConfig] = []
    tensors = {f"head.{key}": value.float() for key, value in head.items()}
    for site in backbone.trunk.all_sites():
        here = {name: factors.pop(name) for name in [*factors] if name in site.layers and site.kind != "block"}
        if here:
            scaled = {name: (*pair, _scale(adapter.config, name, len(pair[0]))) for name, pair in here.items()}
            tuner, found = _at_site(site, scaled)
            tuners.append(tuner)
            tensors |= {f"tuners.lora.{site.kind}.{site.depth}.{key}": value for key, value in found.items()}
    if factors:
        raise ConfigError(
            f"peft updates {min(factors)}, which is no layer of an op of {backbone.config.name}; leave it out"
        )
    return Imported(tuners=_together(tuners), tensors=tensors, num_classes=len(tensors["head.bias"]))


def _check_plain(config: Mapping[str, Any]) -> None:
    if config.get("peft_type") != "LORA":
        raise ConfigError(f"peft_type is {config.get('peft_type')!r}; allowed: 'LORA'; convert it with peft first")
    if config.get("bias", "none") != "none":
        raise ConfigError(f"bias is {config['bias']!r}; allowed: 'none'; train without biases")
    for key in UNSUPPORTED:
        if config.get(key):
            raise ConfigError(f"{key} is {config[key]!r}; allowed: LoRA without it; merge it with peft instead")
    for key in (*config.get("rank_pattern", {}), *config.get("alpha_pattern", {})):
        if not re.fullmatch(r"[\w.]+", key):
            raise ConfigError(f"the pattern {key!r} is a regular expression; allowed: names of layers; write them out")


def _sorted(
    tensors: Mapping[str, Tensor], heads: tuple[str, ...]
) -> tuple[dict[str, Tensor], dict[str, tuple[Tensor, Tensor]]]:
    """The head's tensors, and each layer's A and B."""
    head: dict[str, Tensor] = {}
    halves: dict[str, dict[str, Tensor]] = {}
    for name, value in tensors.items():
        layer, _, key = name.removeprefix(PREFIX).rpartition(".")
        if layer == heads[0] and key in ("weight", "bias"):
            head[key] = value
        elif layer.endswith((".lora_A", ".lora_B")):
            halves.setdefault(layer[: -len(".lora_A")], {})[layer[-1]] = value
        elif layer not in heads:
            raise ConfigError(f"peft's tensor {name} is not known; allowed: lora_A, lora_B and the head {heads[0]}")
    for name, pair in halves.items():
        shapes = [tuple(half.shape) for half in pair.values()]
        if max(map(len, shapes)) > 2:
            raise ConfigError(
                f"peft updates {name}, which is no linear layer; allowed: linear layers of ops; give target_modules "
                "such as [qkv, attn.proj], as [proj] means the patches' convolution too"
            )
        if pair.keys() != {"A", "B"} or set(map(len, shapes)) != {2} or pair["B"].shape[1] != len(pair["A"]):
            raise ConfigError(f"{name} has {' and '.join(pair)} of {shapes}; allowed: A (r, in) and B (out, r)")
    if head.keys() != {"weight", "bias"}:
        raise ConfigError(f"there is no head; train with modules_to_save=[{heads[0]!r}]")
    return head, {name: (pair["A"].float(), pair["B"].float()) for name, pair in halves.items()}


def _scale(config: Mapping[str, Any], layer: str, rank: int) -> float:
    """alpha / r, or alpha / sqrt(r) where peft stabilised the rank."""
    patterns: Mapping[str, float] = config.get("alpha_pattern", {})
    own = [alpha for name, alpha in patterns.items() if layer == name or layer.endswith(f".{name}")]
    alpha = float(own[0] if own else config["lora_alpha"])
    return alpha / rank**0.5 if config.get("use_rslora") else alpha / rank


def _at_site(site: OpSite, layers: Mapping[str, Update]) -> tuple[TunerConfig, dict[str, Tensor]]:
    """One tuner for all updates of an op: the largest rank is its own, others get zeros; scales go into B."""
    parts = {
        (target, name): part
        for name, update in layers.items()
        for target, part in _split(_checked(site, name, update), name.rpartition(".")[2]).items()
    }
    rank, scale = max(len(a) for a, _, _ in parts.values()), next(iter(parts.values()))[2]
    wanted = tuple(dict.fromkeys(target for target, _ in parts))
    tensors: dict[str, Tensor] = {}
    for target in wanted:
        for key, name, slices in find_updates(site, [target]):
            a, b, own = parts.get((target, name)) or _nothing(cast(nn.Linear, site.layers[name]), name, slices)
            missing = rank - len(a)
            tensors[f"updates.{key}.a"] = torch.cat([a, a.new_zeros(missing, a.shape[1])])
            tensors[f"updates.{key}.b"] = torch.cat([b * (own / scale), b.new_zeros(len(b), missing)], dim=1)
    settings = {"layers": wanted, "lora_rank": rank, "alpha": scale * rank}
    return TunerConfig(method="lora", ops=(site.kind,), depths=(site.depth,), settings=settings), tensors


def _checked(site: OpSite, name: str, update: Update) -> Update:
    layer = site.layers[name]
    found = update[0].shape[1], len(update[1])
    if not isinstance(layer, nn.Linear) or found != (layer.in_features, layer.out_features):
        raise ConfigError(f"peft updates {name} from {found[0]} to {found[1]} features; this backbone has {layer}")
    return update


def _split(update: Update, leaf: str) -> dict[str, Update]:
    """The update by the letters of a fused layer, where each rank reaches the rows of one letter alone."""
    a, b, scale = update
    slices = b.view(num_slices(leaf), -1, len(a))
    reached = slices.abs().sum(dim=1) > 0
    if len(slices) == 1 or not (reached.sum(dim=0) == 1).all():
        return {leaf: update}
    parts = zip(leaf, slices, reached, strict=True)
    return {letter: (a[mine], rows[:, mine], scale) for letter, rows, mine in parts if mine.any()}


def _nothing(layer: nn.Linear, name: str, slices: tuple[int, ...]) -> Update:
    """An update of rank 0: a layer of the same short name as one that peft updates, which it leaves as it is."""
    width = layer.out_features // num_slices(name) * len(slices)
    return torch.zeros(0, layer.in_features), torch.zeros(width, 0), 1.0


def _together(tuners: Sequence[TunerConfig]) -> tuple[TunerConfig, ...]:
    """Tuners that differ in their depths alone as one."""
    groups: dict[str, list[TunerConfig]] = {}
    for tuner in tuners:
        groups.setdefault(f"{tuner.ops} {tuner.settings}", []).append(tuner)
    return tuple(
        replace(
            alike[0], depths=tuple(sorted(depth for tuner in alike for depth in cast(tuple[int, ...], tuner.depths)))
        )
        for alike in groups.values()
    )
