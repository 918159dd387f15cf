"""What `methods.py` compares: titles, tuners and learning rates, for the demo and for the grocery photos."""

from dataclasses import dataclass
from typing import Any

# Five rates for everybody, a factor of about three apart, around what the kind of method takes.
INSIDE_LR, HEADS_LR, WEIGHTS_LR = (
    (1e-3, 3e-3, 1e-2, 3e-2, 1e-1),
    (1e-2, 3e-2, 1e-1, 3e-1, 1.0),
    (1e-4, 3e-4, 1e-3, 3e-3, 1e-2),
)
Tuners = tuple[dict[str, Any], ...]


@dataclass(frozen=True)
class Entry:
    """One row of the benchmark: its title, its tuners as a space writes them, its learning rates."""

    title: str
    tuners: Tuners
    rates: tuple[float, ...]


def _adapter(*ops: str) -> dict[str, Any]:
    return {"method": "p_adapter", "ops": list(ops), "bottleneck_dim": 16}


LINEAR = Entry("linear probe", (), HEADS_LR)
DEMO = (
    LINEAR,
    Entry("MLP head", ({"method": "mlp_head"},), INSIDE_LR),
    Entry("full fine-tuning", ({"method": "full"},), WEIGHTS_LR),
    Entry("partial-1", ({"method": "partial"},), WEIGHTS_LR),
    Entry("BitFit", ({"method": "bitfit"},), INSIDE_LR),
    Entry("adapter (intermediate)", ({"method": "adapter", "bottleneck_dim": 16},), INSIDE_LR),
    Entry("adapter (Houlsby)", ({"method": "adapter_houlsby", "bottleneck_dim": 16},), INSIDE_LR),
    Entry("adapter (Pfeiffer)", ({"method": "adapter_pfeiffer", "bottleneck_dim": 16},), INSIDE_LR),
    Entry("Adapter+", ({"method": "adapter_plus", "bottleneck_dim": 16},), INSIDE_LR),
    Entry("prefix tuning", ({"method": "prefix_tuning", "num_tokens": 10},), INSIDE_LR),
    Entry("VPT-shallow", ({"method": "vpt_shallow", "num_tokens": 10},), INSIDE_LR),
    Entry("VPT-deep", ({"method": "vpt_deep", "num_tokens": 10},), INSIDE_LR),
    Entry("P-Adapter, MHA", (_adapter("attn"),), INSIDE_LR),
    Entry("P-Adapter, FFN", (_adapter("mlp"),), INSIDE_LR),
    Entry("P-Adapter, Block", (_adapter("block"),), INSIDE_LR),
    Entry("P-Prefix, MHA", ({"method": "p_prefix", "ops": ["attn"], "num_tokens": 10},), INSIDE_LR),
    Entry("P-Prompt, MHA", ({"method": "p_prompt", "ops": ["attn"], "num_tokens": 10},), INSIDE_LR),
    Entry("dual: P-Adapter on MHA and FFN", (_adapter("attn", "mlp"),), INSIDE_LR),
    Entry(
        "tri: P-Adapter on MHA and FFN, P-Prefix on Block",
        (_adapter("attn", "mlp"), {"method": "p_prefix", "ops": ["block"], "num_tokens": 10}),
        INSIDE_LR,
    ),
    Entry("tri: P-Adapter on MHA, FFN, Block", (_adapter("attn", "mlp", "block"),), INSIDE_LR),
    Entry("LoRA (q, v)", ({"method": "lora", "lora_rank": 8},), INSIDE_LR),
    Entry("SSF", ({"method": "ssf"},), INSIDE_LR),
    Entry("AdaptFormer", ({"method": "adaptformer", "bottleneck_dim": 16},), INSIDE_LR),
    Entry("Convpass", ({"method": "convpass"},), INSIDE_LR),
    Entry("RepAdapter", ({"method": "rep_adapter"},), INSIDE_LR),
    Entry("MAM", ({"method": "mam", "num_tokens": 10, "bottleneck_dim": 16},), INSIDE_LR),
    Entry("UniPT (port)", ({"method": "unipt"},), INSIDE_LR),
    Entry("ladder side-tuning", ({"method": "ladder"},), INSIDE_LR),
    Entry("Res-Tuning-Bypass", ({"method": "bypass", "bottleneck_dim": 16},), INSIDE_LR),
    Entry("DTL", ({"method": "dtl"},), INSIDE_LR),
    Entry("instance-wise prompt (stand-in)", ({"method": "instance_prompt"},), INSIDE_LR),
    Entry("proxy-anchor head (stand-in)", ({"method": "proxy_head"},), INSIDE_LR),
)

# The grocery photos: in-block tuners in the last four blocks, so that many rates can be tried.
_LAST = {"depths": "last:4"}
GROCERY = (
    Entry("linear probe", (), (3e-3, 1e-2, 3e-2)),
    Entry("UniPT (port)", ({"method": "unipt"},), (1e-3, 3e-3, 1e-2)),
    Entry("Res-Tuning-Bypass", ({"method": "bypass", "bottleneck_dim": 16},), (1e-3, 3e-3, 1e-2)),
    Entry("P-Adapter on MHA and FFN", ({**_adapter("attn", "mlp"), **_LAST},), (1e-3, 3e-3, 1e-2)),
    Entry("LoRA (q, v)", ({"method": "lora", "lora_rank": 8, **_LAST},), (1e-3, 3e-3, 1e-2)),
    Entry("VPT-deep", ({"method": "vpt_deep", "num_tokens": 10, **_LAST},), (3e-3, 1e-2, 3e-2)),
)
