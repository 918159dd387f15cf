"""Named protocols: where val comes from, and what the final model is trained on. State one next to every number.

Val is drawn once, stratified, and follows from the seed 0 and the images' bytes alone (`splitting.split_off`): no index
files are needed to get the same val anywhere. An official val, such as that of Flowers-102, is always kept as it is.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from types import MappingProxyType
from typing import Literal

from utuning.errors import ConfigError, nearest

ProtocolName = Literal["vpt", "trainval-final", "official"]
VAL_FRACTION, VAL_SEED = 0.1, 0
"""What val is taken from train by, where it is."""
AS_GIVEN, NO_VAL = "as given", "none"
"""Where a stored data set's val comes from, if it was not drawn (see `drawn`). Images can be as given, too."""
FINAL_SEEDS = (0, 1, 2)
"""The fewest seeds that an interval of a test accuracy should rest on."""


@dataclass(frozen=True, kw_only=True)
class Protocol:
    """One protocol. `holds_out` says whether val is taken from train where none is published."""

    name: str
    about: str
    holds_out: bool
    final_splits: Sequence[str]

    @property
    def trains_again(self) -> bool:
        """Whether the chosen configuration is trained once more, on other images than in the search."""
        return tuple(self.final_splits) != ("train",)


PROTOCOLS = MappingProxyType(
    {
        row.name: row
        for row in (
            Protocol(
                name="vpt",
                about="a tenth of train, stratified, is val where none is published; train on the rest, select on val, "
                "test once",
                holds_out=True,
                final_splits=("train",),
            ),
            Protocol(
                name="trainval-final",
                about="the splits of vpt; select on val, then train once more on train and val, and test that once",
                holds_out=True,
                final_splits=("train", "val"),
            ),
            Protocol(
                name="official",
                about="the published splits as they are; without a published val nothing can be selected: for settings "
                "that were chosen elsewhere",
                holds_out=False,
                final_splits=("train",),
            ),
        )
    }
)
"""The protocols by name."""


def find_protocol(name: str) -> Protocol:
    """Look up a protocol.

    Raises:
        ConfigError: an unknown name.
    """
    if name not in PROTOCOLS:
        raise ConfigError(f"the protocol is {name!r}; {nearest(name, PROTOCOLS)}")
    return PROTOCOLS[name]


def drawn(fraction: float, seed: int) -> str:
    """Say of a val split that it was taken from train, and how."""
    return f"{fraction:g} of train, stratified, seed {seed}"
