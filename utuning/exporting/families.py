"""The methods whose tuners can be inputs of a graph: their formulas over rows, each row with its own values.

A tuner's values are folded into a small set of tensors and padded with zeros to the graph's width; keys of a prefix get
a mask beside them, since a softmax gives every key a share. So padding changes nothing, and a tuner without values at a
site does nothing there. The formulas are those of the methods' own classes, which tests hold them to; `torch.vmap` over
these classes, as in `utuning.pooling`, does not trace with a number of rows that is left open.

Shape legend: R rows, N tokens, D width of the stream, r bottleneck or rank, I and O features that a layer takes and
gives, M tokens of a prefix, H heads, d width of a head.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.functional import gelu, pad, relu, scaled_dot_product_attention

from utuning.architectures import OpSite
from utuning.errors import ConfigError
from utuning.tuners.adaptformer import AdaptFormer
from utuning.tuners.attending import attention_of
from utuning.tuners.lora import LoRA
from utuning.tuners.p_adapter import PAdapter
from utuning.tuners.p_prefix import PPrefix
from utuning.tuners.prefix_tuning import PrefixTuning
from utuning.tuners.rows import Role
from utuning.tuners.scale import LearnedScale
from utuning.tuners.sequential_adapter import SequentialAdapter

MASKED = -1e30
"""What a score that must not count gets added: finite, so that a row of nothing else is no NaN."""
METHODS = (
    "adapter",
    "adapter_houlsby",
    "adapter_plus",
    "adaptformer",
    "lora",
    "mam",
    "p_adapter",
    "p_prefix",
    "prefix_tuning",
    "scaled_parallel",
)
"""What a bank takes."""
Values = Mapping[str, Tensor]


@dataclass(frozen=True, kw_only=True)
class Family:
    """Tuners with one formula.

    Attributes:
        tuner: their class.
        role: what they are to an op.
        widths: their tensors, and the dimension of each that is the width; None for one that has none.
        values: (tuner, site) -> its tensors for each layer that it changes, as wide as it is; the key is empty where it
            stands at a site.
        rows: (site, values with a row each, what the role is called with) -> what the role gives.
        fits: whether the formula is this tuner's, where a class has several.
    """

    tuner: type[nn.Module]
    role: Role
    widths: Mapping[str, int | None]
    values: Callable[[Any, OpSite], Mapping[str, Values]]
    rows: Callable[..., Tensor]
    fits: Callable[[Any], bool] = lambda tuner: True


def family_of(method: str, tuner: nn.Module) -> str:
    """The family of a built tuner.

    Raises:
        ConfigError: its method, or a setting of it, has none.
    """
    for name, family in FAMILIES.items():
        if type(tuner) is family.tuner and family.fits(tuner):
            return name
    raise refused(method)


def refused(what: str) -> ConfigError:
    """The error for what a graph cannot take as an input."""
    return ConfigError(
        f"{what} cannot be an input of a graph; allowed: {', '.join(METHODS)}, with a linear head, and with a scale "
        "that is no gate; export the bundle alone, with --to onnx or --to pt2"
    )


def _factor(scale: nn.Module | float, like: Tensor) -> Tensor:
    """A tuner's scale as a factor, (D,) or (1,)."""
    if isinstance(scale, LearnedScale):
        return scale.weight
    if isinstance(scale, nn.Identity):
        return torch.ones_like(like[:1])
    if isinstance(scale, float):
        return torch.full_like(like[:1], scale)
    raise refused("a tuner with scale 'gate'")


def _adapter_values(tuner: PAdapter | AdaptFormer | SequentialAdapter, site: OpSite) -> Mapping[str, Values]:
    """s * (h Wup + bup) = h (s Wup) + s bup."""
    down, up = tuner.down, tuner.up
    scale = _factor(tuner.scale, up.bias)
    up_values = {"up": scale.unsqueeze(-1) * up.weight, "up_bias": scale * up.bias}
    return {"": {"down": down.weight, "down_bias": down.bias, **up_values}}


def _adapter_rows(
    activation: Callable[[Tensor], Tensor], reads: Callable[[Tensor, Tensor], Tensor]
) -> Callable[..., Tensor]:
    """act(z Wdown + bdown) Wup + bup, with z what the position reads."""

    def rows(site: OpSite, values: Values, x_RND: Tensor, op_RND: Tensor) -> Tensor:
        z_RND = reads(x_RND, op_RND)
        h_RNr = activation(torch.baddbmm(values["down_bias"].unsqueeze(1), z_RND, values["down"].mT))
        return torch.baddbmm(values["up_bias"].unsqueeze(1), h_RNr, values["up"].mT)

    return rows


def _lora_values(tuner: LoRA, site: OpSite) -> Mapping[str, Values]:
    return {name: {"a": a, "b": tuner.scale * b} for name, (a, b) in tuner.whole().items()}


def _lora_rows(site: OpSite, values: Values, x: Tensor, y: Tensor) -> Tensor:
    """y + B A x. A layer may see several rows for one, such as windows."""
    x_RNI = x.reshape(values["a"].shape[0], -1, x.shape[-1])
    return y + torch.bmm(torch.bmm(x_RNI, values["a"].mT), values["b"].mT).view(y.shape)


def _prefix_values(tuner: PPrefix | PrefixTuning, site: OpSite) -> dict[str, Values]:
    """The mask is 1 for a token, so that padding it with zeros leaves the others out."""
    key_MI, value_MI = tuner.key[0], tuner.value[0]
    return {"": {"key": key_MI, "value": value_MI, "mask": torch.ones_like(key_MI[:, 0])}}


def _p_prefix_values(tuner: PPrefix, site: OpSite) -> Mapping[str, Values]:
    scale_D = _factor(tuner.scale, tuner.key[0, 0]).expand(site.width)
    return {"": {**_prefix_values(tuner, site)[""], "scale": scale_D}}


def _p_prefix_rows(site: OpSite, values: Values, x_RND: Tensor, op_RND: Tensor) -> Tensor:
    """s * softmax(Q Kpre^T / sqrt(d) + mask) Vpre Wo."""
    attention = attention_of(site, "p_prefix")
    k_RHMd, v_RHMd = (_heads(values[name], attention.num_heads) for name in ("key", "value"))
    z_RHNd = scaled_dot_product_attention(attention.queries(x_RND), k_RHMd, v_RHMd, attn_mask=_mask(values))
    return values["scale"].unsqueeze(1) * attention.output(z_RHNd, False)


def _prefix_tuning_rows(site: OpSite, values: Values, x_RND: Tensor) -> Tensor:
    """softmax(Q [K; Kpre]^T / sqrt(d) + [0; mask]) [V; Vpre] Wo + bo."""
    attention = attention_of(site, "prefix_tuning")
    q, k, v = attention.project(x_RND)
    mask = pad(_mask(values), (k.shape[2], 0))
    k, v = (
        torch.cat([own, _heads(values[name], attention.num_heads)], dim=2) for own, name in ((k, "key"), (v, "value"))
    )
    return attention.output(scaled_dot_product_attention(q, k, v, attn_mask=mask), True)


def _heads(t_RMI: Tensor, num_heads: int) -> Tensor:
    return t_RMI.view(*t_RMI.shape[:2], num_heads, -1).transpose(1, 2)


def _mask(values: Values) -> Tensor:
    """What is added to the scores, (R, 1, 1, M)."""
    return ((1 - values["mask"]) * MASKED)[:, None, None]


ADAPTER_WIDTHS = {"down": 0, "down_bias": 0, "up": 1, "up_bias": None}
PREFIX_WIDTHS = {"key": 0, "value": 0, "mask": 0}


def _adapter(
    tuner: type[nn.Module],
    activation: Callable[[Tensor], Tensor],
    reads: Callable[[Tensor, Tensor], Tensor] = lambda x, op: x,
    fits: Callable[[Any], bool] = lambda tuner: True,
) -> Family:
    rows = _adapter_rows(activation, reads)
    return Family(tuner=tuner, role="beside", widths=ADAPTER_WIDTHS, values=_adapter_values, rows=rows, fits=fits)


def _sequential(after_skip: bool, reads: Callable[[Tensor, Tensor], Tensor]) -> Family:
    def fits(tuner: SequentialAdapter) -> bool:
        return tuner.after_skip == after_skip and isinstance(tuner.norm, nn.Identity)

    return _adapter(SequentialAdapter, gelu, reads, fits)


FAMILIES: Mapping[str, Family] = {
    "p_adapter": _adapter(PAdapter, gelu),
    "adaptformer": _adapter(AdaptFormer, relu),
    "adapter_after_op": _sequential(False, lambda x, op: op),
    "adapter_after_skip": _sequential(True, lambda x, op: x + op),
    "lora": Family(tuner=LoRA, role="inside", widths={"a": 0, "b": 1}, values=_lora_values, rows=_lora_rows),
    "p_prefix": Family(
        tuner=PPrefix,
        role="beside",
        widths={**PREFIX_WIDTHS, "scale": None},
        values=_p_prefix_values,
        rows=_p_prefix_rows,
    ),
    "prefix_tuning": Family(
        tuner=PrefixTuning, role="instead", widths=PREFIX_WIDTHS, values=_prefix_values, rows=_prefix_tuning_rows
    ),
}
