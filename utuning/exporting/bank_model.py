"""One backbone whose tuners are inputs: each row of a batch is computed with the tuner that it names.

Shape legend: R rows, T tuners, S size of an image, F features, C classes of the largest head.
"""

from collections.abc import Mapping, Sequence
from functools import partial
from typing import Any, cast

import torch
from torch import Tensor, nn

from utuning.architectures import OpSite, Trunk
from utuning.backbone import Backbone
from utuning.exporting.bank import HEAD_BIAS, HEAD_WEIGHT, Bank, Slot
from utuning.exporting.families import FAMILIES, Values
from utuning.exporting.pixels import Pixels
from utuning.member import NO_TAPS
from utuning.streams import run_streams
from utuning.taps import Taps
from utuning.tuners.roles import Beside, Instead, Side, Tap
from utuning.tuners.rows import Role


class BankModel(nn.Module):
    """images (R, 3, S, S) uint8, tuner (R,) int64, bank {name: (T, …)} -> logits (R, C).

    The bank is what `Bank.pack` gives. A class that a row's tuner has not gets a logit of about -1e30, whose
    probability is 0. Numbers of rows and of tuners are open.
    """

    def __init__(self, backbone: Backbone, bank: Bank) -> None:
        super().__init__()
        self.pixels = Pixels(backbone.preprocessing)
        # The sites are closures over this module: registered here, its weights are the graph's parameters.
        self.backbone = backbone.trunk.model
        self._trunk, self._bank = backbone.trunk, bank
        self.eval()

    def forward(self, images: Tensor, tuner: Tensor, bank: Mapping[str, Tensor]) -> Tensor:
        """Logits of images that are resized and cropped already."""
        values = {name: value[tuner] for name, value in bank.items()}
        stream = BankStream(self._trunk, self._bank.slots, values)
        (features_RF,) = run_streams(self._trunk, [stream], self.pixels(images))
        return torch.baddbmm(values[HEAD_BIAS].unsqueeze(1), features_RF.unsqueeze(1), values[HEAD_WEIGHT].mT).squeeze(
            1
        )


class BankStream:
    """To the engine, a bank's rows are one member."""

    side: Side | None = None
    images: Sequence[int] | None = None
    reads_all_tokens = False

    def __init__(self, trunk: Trunk, slots: Sequence[Slot], values: Values) -> None:
        self._at: dict[tuple[Role, tuple[str, int]], list[tuple[str, Any]]] = {}
        for slot in slots:
            family = FAMILIES[slot.family]
            mine = {key: values[f"{slot.name}.{key}"] for key in slot.shapes}
            rows = partial(family.rows, trunk.site(slot.kind, slot.depth), mine)
            self._at.setdefault((family.role, (slot.kind, slot.depth)), []).append((slot.layer, rows))

    def own(self, site: OpSite) -> OpSite | None:
        """A bank has no copies of the backbone's weights."""
        return None

    def beside(self, site: OpSite) -> Beside | None:
        """The sum of all families that stand beside this op."""
        here = [rows for _, rows in self._at.get(("beside", site.where), ())]
        return partial(_sum, here) if here else None

    def instead(self, site: OpSite) -> Instead | None:
        """What replaces this op; of all families one alone does."""
        here = [rows for _, rows in self._at.get(("instead", site.where), ())]
        return cast(Instead, here[0]) if here else None

    def taps(self, site: OpSite) -> Taps:
        """What changes the outputs of this op's layers."""
        here: dict[str, Tap] = dict(self._at.get(("inside", site.where), ()))
        return here or NO_TAPS

    def tokens(self, site: OpSite) -> None:
        """A bank has no prompts."""

    def keep_rows(self, site: OpSite) -> None:
        """Prediction drops no path."""


def _sum(families: Sequence[Beside], x_RND: Tensor, op_RND: Tensor) -> Tensor:
    first, *rest = (rows(x_RND, op_RND) for rows in families)
    return sum(rest, first)
