"""A LoRA bundle as the `peft` library keeps adapters, to be loaded onto a timm model. `peft` itself is not needed here.

Two updates of slices of one fused layer, such as q and v of `qkv`, are one update of the whole layer with the ranks
added: A holds the A of each, one below the other, and B is zero where an update does not reach. The map is the same,
exactly; the file is larger by those zeros. If it is trained on in peft, the zeros train too, and it is no longer q and
v alone.
"""

import json
from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, cast

import yaml
from safetensors.torch import save
from torch import Tensor, nn

from utuning.backbone import Backbone
from utuning.bundles.card import TASK, base_model
from utuning.data.atomic import publish, writing_folder
from utuning.errors import ConfigError
from utuning.member import Member
from utuning.tuners.lora import LoRA

CONFIG, WEIGHTS, CARD = "adapter_config.json", "adapter_model.safetensors", "README.md"
PREFIX = "base_model.model."
FROM_FILE = {"pretrained": True, "pretrained_cfg_overlay": {"file": "WEIGHTS.safetensors"}}
"""How timm reads weights from a file; the user knows where it lies."""


@dataclass(frozen=True, kw_only=True)
class PeftAdapter:
    """An adapter in peft's form: its configuration, and its tensors by peft's names."""

    config: Mapping[str, Any]
    tensors: Mapping[str, Tensor]


def to_peft(backbone: Backbone, member: Member) -> PeftAdapter:
    """Write a member in peft's form: LoRA updates, and the head as a module to save.

    Raises:
        ConfigError: the member has something else than LoRA and a linear head.
    """
    updates = _updates(member)
    heads = classifiers(backbone)
    ranks = {name: len(a) for name, (a, _, _) in updates.items()}
    alphas = {name: _number(scale * len(a)) for name, (a, _, scale) in updates.items()}
    rank, alpha = _commonest(ranks.values()), _commonest(alphas.values())
    tensors = {
        f"{PREFIX}{name}.lora_{letter}.weight": value
        for name, (a, b, _) in updates.items()
        for letter, value in (("A", a), ("B", b))
    }
    head = cast(nn.Linear, member.parts["head"]).state_dict()
    tensors |= {f"{PREFIX}{name}.{key}": value for name in heads for key, value in head.items()}
    config = {
        "peft_type": "LORA",
        "base_model_name_or_path": base_model(backbone.config),
        "inference_mode": True,
        "bias": "none",
        "lora_dropout": 0.0,
        "fan_in_fan_out": False,
        "use_rslora": False,
        "use_dora": False,
        "r": rank,
        "lora_alpha": alpha,
        "rank_pattern": {name: value for name, value in ranks.items() if value != rank},
        "alpha_pattern": {name: value for name, value in alphas.items() if value != alpha},
        "target_modules": list(updates),
        "modules_to_save": list(heads),
    }
    return PeftAdapter(config=config, tensors={k: v.detach().cpu().contiguous().clone() for k, v in tensors.items()})


def write_peft(adapter: PeftAdapter, backbone: Backbone, num_classes: int, to: Path) -> Path:
    """Write an adapter's folder, whole or not at all: configuration, tensors, and how to load them."""
    with writing_folder(to) as partial:
        (partial / CONFIG).write_text(json.dumps(adapter.config, indent=2) + "\n", encoding="utf-8")
        (partial / WEIGHTS).write_bytes(save(dict(adapter.tensors), metadata={"format": "pt"}))
        (partial / CARD).write_text(_card(backbone, num_classes), encoding="utf-8")
        publish(partial, to)
    return to


def classifiers(backbone: Backbone) -> tuple[str, ...]:
    """Names of a timm model's own classifiers: most have one, distilled ones two.

    Raises:
        ConfigError: peft could not tell it from another module.
    """
    model = cast(Any, backbone.trunk.model)
    named = model.pretrained_cfg["classifier"]
    names = (named,) if isinstance(named, str) else tuple(named)
    alike = [found for found, _ in model.named_modules() if found.endswith(names) and found not in names]
    if alike:
        raise ConfigError(
            f"peft cannot tell {names[0]} from {alike[0]} of {backbone.config.name}; deploy the bundle instead"
        )
    return names


def _updates(member: Member) -> dict[str, tuple[Tensor, Tensor, float]]:
    """(A, B, scale) of each layer."""
    found: dict[str, tuple[Tensor, Tensor, float]] = {}
    for placed in member.placed:
        if type(placed.tuner) is not LoRA:
            raise _refused(placed.name[0])
        for name, (a, b) in placed.tuner.whole().items():
            if name in found:
                raise _refused(f"two updates of {name}")
            found[name] = a, b, placed.tuner.scale
    if not found or member.own_trunk is not None or type(member.parts["head"]) is not nn.Linear:
        what = "a linear probe" if not found else "own weights" if member.own_trunk is not None else "another head"
        raise _refused(what)
    return found


def _refused(what: str) -> ConfigError:
    return ConfigError(
        f"{what} cannot be written for peft; allowed: lora tuners with a linear head; deploy the bundle instead"
    )


def _commonest(values: Any) -> Any:
    return Counter(values).most_common(1)[0][0]


def _number(value: float) -> float:
    return int(value) if float(value).is_integer() else value


def _card(backbone: Backbone, num_classes: int) -> str:
    config, size = backbone.config, backbone.preprocessing
    front = {"base_model": base_model(config), "library_name": "peft", "pipeline_tag": TASK, "tags": ["lora", "timm"]}
    weights = {"timm": {"pretrained": True}, "none": {}}.get(config.weights, FROM_FILE)
    img_size = {} if config.img_size is None else {"img_size": config.img_size}
    given = {"num_classes": num_classes, **img_size, **config.options, **weights}
    arguments = "".join(f", {key}={value!r}" for key, value in given.items())
    return f"""---
{yaml.safe_dump(front, sort_keys=False)}---
# A LoRA of {config.name} for peft

```python
import timm
from peft import PeftModel

model = timm.create_model({config.name!r}{arguments})
model = PeftModel.from_pretrained(model, "FOLDER").eval()
```

FOLDER is this one{", WEIGHTS.safetensors the backbone's weights" if weights is FROM_FILE else ""}.
Images: shorter side to {size.resize} px ({size.interpolation}), centre crop of {size.img_size} px, values in [0, 1],
mean {size.mean}, standard deviation {size.std}.
Labels: `class_names` of the bundle's manifest, in the order of the scores.
"""
