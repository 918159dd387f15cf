"""A frozen backbone: a timm model, its op sites, its fingerprint, and how an image becomes its input."""

import copy
import hashlib
import importlib.util
import sys
from collections.abc import Collection, Mapping
from dataclasses import dataclass
from difflib import get_close_matches
from functools import cached_property
from pathlib import Path
from typing import Any

import timm
import torch
from safetensors import SafetensorError
from safetensors.torch import load_file
from timm.data import resolve_model_data_config
from torch import Tensor, nn

from utuning.architectures import ARCHITECTURES, Trunk
from utuning.architectures.trunk import find_architecture
from utuning.configs import BackboneConfig
from utuning.data.transforms import Preprocessing, normalise
from utuning.errors import BackboneError

PACKAGE_SCHEME = "package://"


@dataclass(frozen=True)
class Backbone:
    """A frozen trunk in eval mode; nothing of it requires a gradient."""

    config: BackboneConfig
    trunk: Trunk
    preprocessing: Preprocessing
    fingerprint: str

    @classmethod
    def load(cls, name: str, *, weights: str = "timm", **overrides: Any) -> "Backbone":
        """Build a backbone by timm name; `overrides` are the other fields of `BackboneConfig`."""
        return cls.from_config(BackboneConfig(name=name, weights=weights, **overrides))

    @classmethod
    def from_config(cls, config: BackboneConfig, state: Mapping[str, Tensor] | None = None) -> "Backbone":
        """Build a backbone with its weights, or with a state that was loaded elsewhere.

        Raises:
            BackboneError: an unknown model, unreadable weights, or weights of another model.
        """
        model = _create(config, read_weights=state is None)
        if state is not None:
            model.load_state_dict(dict(state))
        model.requires_grad_(False).eval()
        trunk = Trunk(model, find_architecture(model, ARCHITECTURES))
        return cls(config, trunk, _preprocessing(model, config), fingerprint(model.state_dict()))

    @property
    def num_features(self) -> int:
        """Width F of the features that a head reads."""
        # Not timm's num_features: a head's own hidden layer, or its pooling, may change the width.
        return int(self.trunk.model.head_hidden_size)  # type: ignore[arg-type]

    @property
    def num_parameters(self) -> int:
        """Parameters of the backbone, without a head."""
        return sum(parameter.numel() for parameter in self.trunk.model.parameters())

    @cached_property
    def shapes(self) -> "Backbone":
        """The same backbone on the meta device: what is built on it has shapes and takes no memory."""
        model = self.trunk.model
        memo: dict[int, Any] = {id(p): nn.Parameter(p.to("meta"), requires_grad=False) for p in model.parameters()}
        memo |= {id(buffer): buffer.to("meta") for buffer in model.buffers()}
        trunk = Trunk(copy.deepcopy(model, memo), self.trunk.architecture)
        return Backbone(self.config, trunk, self.preprocessing, self.fingerprint)

    def to(self, device: torch.device | str) -> "Backbone":
        """Move the frozen weights; returns itself."""
        self.trunk.model.to(device)
        return self

    def normalise(self, images_B3HW: Tensor) -> Tensor:
        """Scale uint8 images of the input size to what the trunk reads."""
        return normalise(images_B3HW, self.preprocessing.mean, self.preprocessing.std)

    def trainable_trunk(self, names: Collection[str]) -> Trunk:
        """Copy the trunk with parameters of its own for `names`; all others stay shared and frozen."""
        model = self.trunk.model
        shared = [*(p for name, p in model.named_parameters() if name not in names), *model.buffers()]
        copied = copy.deepcopy(model, {id(tensor): tensor for tensor in shared})
        for name in names:
            copied.get_parameter(name).requires_grad_(True)
        return Trunk(copied, self.trunk.architecture)


def fingerprint(state: Mapping[str, Tensor]) -> str:
    """Hash a state dict: sha256 over name, shape and fp32 little-endian bytes, in the order of names."""
    sha = hashlib.sha256()
    for name in sorted(state):
        values = state[name].detach().to("cpu", torch.float32).contiguous().numpy()
        sha.update(f"{name}{values.shape}".encode())
        sha.update(values.astype("<f4", copy=False).tobytes())
    return sha.hexdigest()


def weights_path(weights: str) -> Path:
    """Resolve a `package://PACKAGE/FILE` or file path.

    Raises:
        BackboneError: no such file, or one that is not safetensors.
    """
    if weights.startswith(PACKAGE_SCHEME):
        package, _, inside = weights.removeprefix(PACKAGE_SCHEME).partition("/")
        # Found, not imported: a bundle from elsewhere may name the package.
        spec = importlib.util.find_spec(package) if package.isidentifier() else None
        path = Path(*(spec.submodule_search_locations or ())[:1] if spec else (), inside)
    else:
        path = Path(weights).expanduser()
    if path.suffix != ".safetensors" or not path.is_file():
        raise BackboneError(
            f"backbone weights {weights!r} are no readable .safetensors file; give a path to one, "
            "'timm' for timm's own download, or 'none' for random weights"
        )
    return path


def _create(config: BackboneConfig, *, read_weights: bool) -> nn.Module:
    if not timm.is_model(config.name):
        raise BackboneError(f"timm has no model {config.name!r}; {_close_models(config.name)}")
    options: dict[str, Any] = {"num_classes": 0, **config.options}
    if config.img_size is not None:
        options["img_size"] = config.img_size
    if read_weights and config.weights != "none":
        options["pretrained"] = True
        if config.weights != "timm":
            options["pretrained_cfg_overlay"] = {"file": str(weights_path(config.weights))}
    try:
        model = _build(config.name, options)
        if "pretrained_cfg_overlay" in options:
            _check_complete(model, weights_path(config.weights))
    except (RuntimeError, TypeError, ValueError, OSError, KeyError, SafetensorError) as error:
        raise BackboneError(
            f"backbone {config.name!r} with weights {config.weights!r} does not load: {error}"
        ) from error
    return model


def _build(name: str, options: Mapping[str, Any]) -> nn.Module:
    """Build a timm model, with an image size only if it takes one: convolutional networks run at any size."""
    # Random weights are the same ones each time: a fingerprint has to mean something.
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        try:
            model: nn.Module = timm.create_model(name, **options)
        except TypeError as error:
            if "img_size" not in options or "'img_size'" not in str(error):
                raise
            model = _build(name, {key: value for key, value in options.items() if key != "img_size"})
    return model


def _check_complete(model: nn.Module, path: Path) -> None:
    """Without a classifier timm loads what fits and keeps random values for the rest; here that is an error."""
    translate = getattr(sys.modules[type(model).__module__], "checkpoint_filter_fn", lambda state, model: state)
    missing = sorted(model.state_dict().keys() - translate(load_file(path), model).keys())
    if missing:
        raise ValueError(
            f"{len(missing)} tensors are missing in {path}, the first is {missing[0]}; is it another model's?"
        )


def _close_models(name: str) -> str:
    close = get_close_matches(name.split(".")[0], timm.list_models(), n=5)
    return f"close ones: {', '.join(close)}" if close else "timm.list_models() names all"


def _preprocessing(model: nn.Module, config: BackboneConfig) -> Preprocessing:
    facts = resolve_model_data_config(model)
    img_size = config.img_size or int(facts["input_size"][-1])
    crop_pct = config.crop_pct or float(facts["crop_pct"])
    return Preprocessing.from_crop_pct(
        img_size,
        crop_pct,
        mean=config.mean or tuple(facts["mean"]),
        std=config.std or tuple(facts["std"]),
        interpolation=str(facts["interpolation"]),
    )
