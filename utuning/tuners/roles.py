"""What a tuner can be to a frozen backbone: a protocol for each role that a row of the table may name.

Shape legend: B images, N tokens, D width, F features, C classes.
"""

from collections.abc import Callable, Mapping, Sequence
from typing import Any, Protocol

from torch import Generator, Tensor, nn

from utuning.architectures import OpSite, Trunk

Tap = Callable[[Tensor, Tensor], Tensor]
"""(input, output) of a frozen layer -> what the rest of the op gets as that layer's output."""


class Beside(Protocol):
    """Adds to an op: x' = OP(x) + U(x). May read x_BND, and op_BND = OP(x), which for a block is the block's output.

    In a last block of which the pooled tokens alone are read, x_BND and op_BND may hold these alone. A tuner whose
    output for a token depends on the others in the stream cannot do with that; it has `mixes_tokens = True`.
    """

    def __call__(self, x_BND: Tensor, op_BND: Tensor) -> Tensor:
        """Return what is added, (B, N, D)."""


class Instead(Protocol):
    """Stands in for an op: x' = U(x), made of the op's own frozen projections."""

    def __call__(self, x_BND: Tensor) -> Tensor:
        """Return what replaces OP(x), (B, N, D)."""


class Inside(Protocol):
    """Reaches into an op: changes the outputs of some of its frozen layers."""

    def taps(self) -> Mapping[str, Tap]:
        """The layers it changes, by their name in the model."""

    def merge(self, layers: Mapping[str, nn.Module]) -> None:
        """Fold itself into the site's layers, in place. Raises `ConfigError` where the method cannot."""


class Tokens(Protocol):
    """Puts prompt tokens into the stream in front of a block."""

    num_tokens: int

    def __call__(self, x_BND: Tensor, num_present: int) -> Tensor:
        """Insert the prompt before the image tokens, or put it in the place of the prompt that is there."""


class Side(Protocol):
    """A network beside the backbone, over its states. It carries a value of its own from state to state."""

    first_depth: int | None
    """First block whose output it changes, if it changes any."""

    def start(self, x_BND: Tensor) -> Any:
        """The carried value for the embedded image."""

    def step(self, depth: int, before_BND: Tensor, after_BND: Tensor, carried: Any) -> tuple[Any, Tensor | None]:
        """Read what entered and left a block; return the carried value and what is added to the stream, if anything."""

    def features(self, x_BND: Tensor, carried: Any) -> Tensor:
        """features_BF from the last stream, before the final norm, and the carried value."""


class Head(Protocol):
    """Class scores from features. A head may bring its own loss as `loss(scores_BC, labels_B) -> loss_B`."""

    def __call__(self, features_BF: Tensor) -> Tensor:
        """Scores, (B, C)."""


class BuildsAtSite(Protocol):
    """The class of a tuner that stands at a site (beside, instead, inside, tokens)."""

    def __call__(self, site: OpSite, *, generator: Generator, **settings: Any) -> nn.Module:
        """Build it, with initial values from `generator`. Raises `PlacementError` where it cannot stand."""


class BuildsSide(Protocol):
    """The class of a side network over the states after the blocks at `depths`."""

    def __call__(self, trunk: Trunk, depths: Sequence[int], *, generator: Generator, **settings: Any) -> nn.Module:
        """Build it. Raises `PlacementError` where it cannot stand."""


class BuildsHead(Protocol):
    """The class of a head."""

    def __call__(self, num_features: int, num_classes: int, *, generator: Generator, **settings: Any) -> nn.Module:
        """Build it."""


class SelectsWeights(Protocol):
    """A rule for which of the backbone's own parameters a member trains as copies of its own."""

    def __call__(self, trunk: Trunk, **settings: Any) -> frozenset[str]:
        """Names of parameters of the model."""
