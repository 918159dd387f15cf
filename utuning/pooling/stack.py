"""A bank's rows as one stream of the engine: to the streams, many tuners of one structure are one member."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from functools import partial
from typing import Any, cast

from torch import Tensor

from utuning.architectures import OpSite
from utuning.member import NO_TAPS
from utuning.pooling.bank import Bank
from utuning.taps import Taps
from utuning.tuners.placing import Placed
from utuning.tuners.roles import Beside, Inside, Instead, Side, Tokens

Call = Callable[..., Any]


@dataclass(frozen=True)
class Prompts:
    """The prompts of a bank's tuners, which have equally many tokens."""

    num_tokens: int
    call: Call

    def __call__(self, x_BND: Tensor, num_present: int) -> Tensor:
        """Put each row's own prompt into the stream."""
        return cast(Tensor, self.call(x_BND, num_present))


@dataclass
class Sides:
    """The side networks of a bank's tuners."""

    side: Side
    call: Call
    first_depth: int | None = None

    def start(self, x_BND: Tensor) -> Any:
        """The carried value for the embedded images."""
        return self.call(self.side.start, x_BND)

    def step(self, depth: int, before_BND: Tensor, after_BND: Tensor, carried: Any) -> tuple[Any, Tensor | None]:
        """Read what entered and left a block."""
        return cast(tuple[Any, Tensor | None], self.call(self.side.step, depth, before_BND, after_BND, carried))

    def features(self, x_BND: Tensor, carried: Any) -> Tensor:
        """features_BF from the last stream and the carried value."""
        return cast(Tensor, self.call(self.side.features, x_BND, carried))


class Stack:
    """A stream of rows, each with its own tuner.

    Args:
        bank: the tuners.
        images: the image of each of the bank's rows, by its place in the batch.
    """

    def __init__(self, bank: Bank, images: Sequence[int]) -> None:
        structure = bank.structure
        self.images: Sequence[int] | None = images
        self.reads_all_tokens = structure.member.reads_all_tokens
        self.side: Side | None = None
        self._bank, self._member = bank, structure.member
        self._own: dict[tuple[str, int], OpSite] = {}
        self._at: dict[tuple[str, tuple[str, int] | None], Any] = {}
        for each in structure.member.placed:
            self._at[each.role, each.where] = self._calls(each)

    def own(self, site: OpSite) -> OpSite | None:
        """The same site with copied weights, those of this bank's tuner."""
        own = self._member.own(site)
        if own is not None and site.where not in self._own:
            self._own[site.where] = self._with_values(own)
        return self._own.get(site.where)

    def beside(self, site: OpSite) -> Beside | None:
        """The tuners that stand beside this op, if any."""
        return cast(Beside | None, self._at.get(("beside", site.where)))

    def instead(self, site: OpSite) -> Instead | None:
        """The tuners that replace this op, if any."""
        return cast(Instead | None, self._at.get(("instead", site.where)))

    def taps(self, site: OpSite) -> Taps:
        """What changes the outputs of this op's layers."""
        return cast(Taps, self._at.get(("inside", site.where), NO_TAPS))

    def tokens(self, site: OpSite) -> Tokens | None:
        """The prompts that enter the stream before this block, if any."""
        return cast(Tokens | None, self._at.get(("tokens", site.where)))

    def keep_rows(self, site: OpSite) -> None:
        """Prediction drops no path."""

    def _calls(self, placed: Placed) -> Any:
        """The placed tuner in its role, for all of the bank's rows at once."""
        tuner, call = cast(Any, placed.tuner), partial(self._bank.call, self._bank.structure.of_tuner(placed))
        if placed.role == "inside":
            return {layer: partial(call, tap) for layer, tap in cast(Inside, tuner).taps().items()}
        if placed.role == "tokens":
            return Prompts(tuner.num_tokens, partial(call, tuner))
        if placed.role == "side":
            self.side = Sides(tuner, call)
        return partial(call, tuner)

    def _with_values(self, site: OpSite) -> OpSite:
        run = partial(self._bank.call, self._bank.structure.of_site(site), site.run)
        pooled = None if site.pooled is None else self._with_values(site.pooled)
        return replace(site, run=run, pooled=pooled)
