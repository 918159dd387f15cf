"""The table of tuning methods: one row each. A new method is one file and one row here."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Literal

from utuning.errors import ConfigError, nearest

Role = Literal["beside", "instead", "inside", "tokens", "side", "weights", "head"]
EVERY_OP = ("attn", "mlp", "token_mlp", "conv", "block")
BRANCHES = ("attn", "mlp", "token_mlp", "conv")


@dataclass(frozen=True, kw_only=True)
class Part:
    """One of the methods that a composed method is made of, with where it stands."""

    method: str
    ops: tuple[str, ...] = ()
    settings: Mapping[str, Any] = field(default_factory=dict)


@dataclass(frozen=True, kw_only=True)
class TunerRow:
    """One method.

    Attributes:
        name: what a space writes as `method`.
        role: what it is to the backbone.
        target: its class (or rule), as `module:Name`; its keyword-only arguments are the settings.
        title: its name in the literature.
        source: where its formula comes from.
        ops: the op kinds at which it can stand; none for a role that stands at no op.
        default_ops: those of them that it takes when a space names none, as far as the backbone has them.
        default_depths: the depths that it takes when a space names none.
        settings: defaults that differ from its class's.
        parts: the methods that it is composed of, instead of a class.
        identity_at_init: whether an untrained one, with default settings, leaves the backbone's features as they are.
        stand_in: whether it stands for a method whose formula is not published, and is not that method.
    """

    name: str
    role: Role
    title: str
    source: str
    target: str = ""
    ops: tuple[str, ...] = ()
    default_ops: tuple[str, ...] = ()
    default_depths: str = "all"
    settings: Mapping[str, Any] = field(default_factory=dict)
    parts: tuple[Part, ...] = ()
    identity_at_init: bool = False
    stand_in: bool = False


UTUNING = "U-Tuning, arXiv 2303.00690"
RES_TUNING = "Res-Tuning, arXiv 2310.19859"
ADAPTER_PLUS = "Adapters Strike Back, arXiv 2406.06820"
ATTENDED = ("attn", "mlp", "block")

ROWS: tuple[TunerRow, ...] = (
    TunerRow(
        name="p_adapter",
        role="beside",
        title="P-Adapter",
        source=f"{UTUNING}, fig. 4b",
        target="utuning.tuners.p_adapter:PAdapter",
        ops=EVERY_OP,
        identity_at_init=True,
    ),
    TunerRow(
        name="p_prefix",
        role="beside",
        title="P-Prefix",
        source=f"{UTUNING}, fig. 4b",
        target="utuning.tuners.p_prefix:PPrefix",
        ops=ATTENDED,
    ),
    TunerRow(
        name="p_prompt",
        role="beside",
        title="P-Prompt",
        source=f"{UTUNING}, fig. 4b",
        target="utuning.tuners.p_prompt:PPrompt",
        ops=ATTENDED,
    ),
    TunerRow(
        name="adapter",
        role="beside",
        title="sequential adapter (intermediate position, as in VPT's comparison)",
        source="Houlsby et al., arXiv 1902.00751; position: Adapters Strike Back, arXiv 2406.06820",
        target="utuning.tuners.sequential_adapter:SequentialAdapter",
        ops=BRANCHES,
        default_ops=("mlp", "conv"),
        identity_at_init=True,
    ),
    TunerRow(
        name="adapter_houlsby",
        role="beside",
        title="Houlsby adapter",
        source="Houlsby et al., arXiv 1902.00751",
        target="utuning.tuners.sequential_adapter:SequentialAdapter",
        ops=BRANCHES,
        default_ops=("attn", "mlp", "conv"),
        settings={"init": "houlsby"},
    ),
    TunerRow(
        name="adapter_pfeiffer",
        role="beside",
        title="Pfeiffer adapter",
        source="Pfeiffer et al., arXiv 2005.00247",
        target="utuning.tuners.sequential_adapter:SequentialAdapter",
        ops=BRANCHES,
        default_ops=("mlp", "conv"),
        settings={"position": "after_skip_norm", "init": "bert"},
    ),
    TunerRow(
        name="adapter_plus",
        role="beside",
        title="Adapter+",
        source=ADAPTER_PLUS,
        target="utuning.tuners.sequential_adapter:SequentialAdapter",
        ops=BRANCHES,
        default_ops=("mlp", "conv"),
        settings={"position": "after_skip", "init": "houlsby", "scale": "channel", "bottleneck_dim": 8},
    ),
    TunerRow(
        name="adaptformer",
        role="beside",
        title="AdaptFormer",
        source="arXiv 2205.13535",
        target="utuning.tuners.adaptformer:AdaptFormer",
        ops=BRANCHES,
        default_ops=("mlp", "conv"),
        identity_at_init=True,
    ),
    TunerRow(
        name="scaled_parallel",
        role="beside",
        title="scaled parallel adapter",
        source="He et al., arXiv 2110.04366",
        target="utuning.tuners.adaptformer:AdaptFormer",
        ops=BRANCHES,
        default_ops=("mlp", "conv"),
        settings={"bottleneck_dim": 512, "scale": 4.0},
        identity_at_init=True,
    ),
    TunerRow(
        name="convpass",
        role="beside",
        title="Convpass",
        source="arXiv 2207.07039",
        target="utuning.tuners.convpass:Convpass",
        ops=("attn", "mlp"),
        default_ops=("attn", "mlp"),
        identity_at_init=True,
    ),
    TunerRow(
        name="prefix_tuning",
        role="instead",
        title="prefix tuning",
        source="Li and Liang, arXiv 2101.00190",
        target="utuning.tuners.prefix_tuning:PrefixTuning",
        ops=("attn",),
        default_ops=("attn",),
    ),
    TunerRow(
        name="mam",
        role="beside",
        title="MAM adapter",
        source="He et al., arXiv 2110.04366",
        parts=(
            Part(method="prefix_tuning", ops=("attn",), settings={"num_tokens": 30, "init": "normal"}),
            Part(method="scaled_parallel", ops=("mlp",)),
        ),
    ),
    TunerRow(
        name="vpt_shallow",
        role="tokens",
        title="VPT-shallow",
        source="VPT, arXiv 2203.12119",
        target="utuning.tuners.vpt:Prompt",
        default_depths="first",
    ),
    TunerRow(
        name="vpt_deep",
        role="tokens",
        title="VPT-deep",
        source="VPT, arXiv 2203.12119",
        target="utuning.tuners.vpt:Prompt",
    ),
    TunerRow(
        name="instance_prompt",
        role="tokens",
        title="instance-wise prompt (stand-in for DVPT)",
        source="after the abstract of arXiv 2309.06123; its formula is not published",
        target="utuning.tuners.instance_prompt:InstancePrompt",
        default_depths="first",
        stand_in=True,
    ),
    TunerRow(
        name="lora",
        role="inside",
        title="LoRA",
        source="arXiv 2106.09685",
        target="utuning.tuners.lora:LoRA",
        ops=BRANCHES,
        default_ops=("attn",),
        identity_at_init=True,
    ),
    TunerRow(
        name="ssf",
        role="inside",
        title="SSF",
        source="arXiv 2210.08823",
        target="utuning.tuners.ssf:SSF",
        ops=("stem", "enter", *BRANCHES, "norm"),
        default_ops=("stem", "enter", *BRANCHES, "norm"),
    ),
    TunerRow(
        name="rep_adapter",
        role="inside",
        title="RepAdapter",
        source="arXiv 2302.08106",
        target="utuning.tuners.rep_adapter:RepAdapter",
        ops=("attn", "mlp"),
        default_ops=("attn", "mlp"),
        identity_at_init=True,
    ),
    TunerRow(
        name="bitfit",
        role="weights",
        title="BitFit",
        source="arXiv 2106.10199",
        target="utuning.tuners.own_weights:biases",
        identity_at_init=True,
    ),
    TunerRow(
        name="partial",
        role="weights",
        title="partial-k",
        source="VPT, arXiv 2203.12119",
        target="utuning.tuners.own_weights:last_blocks",
        identity_at_init=True,
    ),
    TunerRow(
        name="full",
        role="weights",
        title="full fine-tuning",
        source="VPT, arXiv 2203.12119",
        target="utuning.tuners.own_weights:every_parameter",
        identity_at_init=True,
    ),
    TunerRow(
        name="unipt",
        role="side",
        title="UniPT (a port to ViT classification)",
        source="arXiv 2308.14316",
        target="utuning.tuners.unipt:UniPT",
    ),
    TunerRow(
        name="ladder",
        role="side",
        title="ladder side-tuning",
        source="arXiv 2206.06522",
        target="utuning.tuners.ladder:Ladder",
    ),
    TunerRow(
        name="bypass",
        role="side",
        title="Res-Tuning-Bypass",
        source=RES_TUNING,
        target="utuning.tuners.bypass:Bypass",
    ),
    TunerRow(
        name="dtl",
        role="side",
        title="DTL",
        source="arXiv 2312.07856",
        target="utuning.tuners.dtl:DTL",
        identity_at_init=True,
    ),
    TunerRow(
        name="mlp_head",
        role="head",
        title="MLP head",
        source="VPT, arXiv 2203.12119",
        target="utuning.tuners.mlp_head:MLPHead",
        identity_at_init=True,
    ),
    TunerRow(
        name="proxy_head",
        role="head",
        title="proxy-anchor embedding head (stand-in for metric learning with conditional prompts)",
        source="loss after Proxy Anchor, arXiv 2003.13911",
        target="utuning.tuners.proxy_head:ProxyHead",
        stand_in=True,
        identity_at_init=True,
    ),
)


def table(rows: tuple[TunerRow, ...]) -> dict[str, TunerRow]:
    """Index rows by name.

    Raises:
        ConfigError: a name stands twice.
    """
    names = [row.name for row in rows]
    twice = sorted({name for name in names if names.count(name) > 1})
    if twice:
        raise ConfigError(f"tuners registered twice: {', '.join(twice)}; give each row its own name")
    return {row.name: row for row in rows}


TUNERS = table(ROWS)


def tuner_row(method: str) -> TunerRow:
    """Look a method up.

    Raises:
        ConfigError: there is no such method.
    """
    if method not in TUNERS:
        raise ConfigError(f"unknown tuning method {method!r}; {nearest(method, TUNERS)}")
    return TUNERS[method]
