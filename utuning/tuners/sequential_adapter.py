"""Sequential adapters: Houlsby (arXiv 1902.00751), Pfeiffer (arXiv 2005.00247), Adapter+ (arXiv 2406.06820)."""

from collections.abc import Callable
from typing import Annotated, Literal

from torch import Generator, Tensor, nn
from torch.nn.functional import gelu

from utuning.architectures import OpSite
from utuning.linear import default_values, empty_linear, noisy_xavier_values
from utuning.settings import AtLeast
from utuning.tuners.scale import ScaleName, build_scale

Position = Literal["after_op", "after_skip", "after_skip_norm"]
Init = Literal["lora", "houlsby", "bert", "xavier"]
HOULSBY_STD = 0.01
BERT_STD = 0.02
NORM_EPS = 1e-6


class SequentialAdapter(nn.Module):
    """U(x) = A(z), A(z) = s * (gelu(z Wdown + bdown) Wup + bup): reads what the op gave, and adds to the same stream.

    z by position, with x the stream that enters the op and x' = x + OP(x) + A(z) what leaves:

    - `after_op`: z = OP(x). Houlsby's adapter, and the "intermediate" one that VPT and U-Tuning compare with.
    - `after_skip`: z = x + OP(x). Adapter+'s "post" position at `mlp`; at `attn` it is the "pre" position.
    - `after_skip_norm`: z = LN(x + OP(x)) with a trainable LN of the adapter's own (1 and 0 at init). Pfeiffer's.

    The sum is plain also where a model does more with it, such as an activation behind it.
    Parameters for width D and bottleneck r: 2Dr + r + D, the scale's, and 2D for an own LN. Left out, as of no tuner
    here: training the backbone's own norms, which Houlsby's set-up does; dropout in the adapter. The engine's drop-path
    drops op and adapter together, where Adapter+ drops the adapter on its own.

    Args:
        site: the op site whose output it reads.
        bottleneck_dim: r; 10 is the authors' of U-Tuning.
        scale: s, see `utuning.tuners.scale`.
        position: what z is.
        init: `lora`: Wdown Kaiming-uniform with a linear layer's default bias, Wup and its bias 0; the identity at
            init. The others are not: `houlsby`: both weights normal with std 0.01 cut at two std, biases 0; `bert`:
            N(0, 0.02), biases 0; `xavier`: as U-Tuning's authors, biases N(0, 1e-6). None has both weights at 0, as
            the code of VPT's comparison has: there the gradients of both stay 0 for ever.
        generator: source of the initial values.
    """

    def __init__(
        self,
        site: OpSite,
        *,
        bottleneck_dim: Annotated[int, AtLeast(1)] = 10,
        scale: ScaleName = "none",
        position: Position = "after_op",
        init: Init = "lora",
        generator: Generator,
    ) -> None:
        super().__init__()
        self.down = empty_linear(site.width, bottleneck_dim)
        self.up = empty_linear(bottleneck_dim, site.width)
        self.norm = nn.LayerNorm(site.width, eps=NORM_EPS) if position == "after_skip_norm" else nn.Identity()
        self.scale = build_scale(scale, site.width, generator)
        self.after_skip = position != "after_op"
        _INIT[init](self.down, self.up, generator)

    def forward(self, x_BND: Tensor, op_BND: Tensor) -> Tensor:
        """Map the stream and the op's output to what is added, all (B, N, D)."""
        z_BND = self.norm(x_BND + op_BND if self.after_skip else op_BND)
        added: Tensor = self.scale(self.up(gelu(self.down(z_BND))))
        return added


def _lora(down: nn.Linear, up: nn.Linear, generator: Generator) -> None:
    default_values(down, generator)
    nn.init.zeros_(up.weight)
    nn.init.zeros_(up.bias)


def _houlsby(down: nn.Linear, up: nn.Linear, generator: Generator) -> None:
    for layer in (down, up):
        cut = 2 * HOULSBY_STD
        nn.init.trunc_normal_(layer.weight, std=HOULSBY_STD, a=-cut, b=cut, generator=generator)
        nn.init.zeros_(layer.bias)


def _bert(down: nn.Linear, up: nn.Linear, generator: Generator) -> None:
    for layer in (down, up):
        nn.init.normal_(layer.weight, std=BERT_STD, generator=generator)
        nn.init.zeros_(layer.bias)


def _xavier(down: nn.Linear, up: nn.Linear, generator: Generator) -> None:
    for layer in (down, up):
        noisy_xavier_values(layer, generator)


_INIT: dict[str, Callable[[nn.Linear, nn.Linear, Generator], None]] = {
    "lora": _lora,
    "houlsby": _houlsby,
    "bert": _bert,
    "xavier": _xavier,
}
