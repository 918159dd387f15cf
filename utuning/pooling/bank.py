"""Values of several tuners of one structure, and calls of its modules in which each row meets its own tuner's values.

Where tuners have equal structure, one call serves all of them: `torch.vmap` turns the method's own formula into grouped
matrix products over values (T, …) and rows (T, R, …). No formula is written a second time.
"""

from collections.abc import Callable, Sequence
from threading import Lock
from typing import Any

import torch
from torch import Tensor
from torch.func import functional_call
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.utils._pytree import tree_flatten, tree_unflatten

from utuning.pooling.structure import Structure

ATTENDING = Lock()
"""Attention has to be matrix products here, as its fused kernels would run tuner by tuner; that switch is global."""


class Bank:
    """Tuners of one structure, each with equally many rows, which stand one tuner after another.

    Args:
        structure: their modules.
        packed: the vector of each tuner; a tuner may come several times.
        dtype: what they compute in.
    """

    def __init__(self, structure: Structure, packed: Sequence[Tensor], dtype: torch.dtype) -> None:
        self.structure, self._num = structure, len(packed)
        self._values = structure.unpack((packed[0] if self._num == 1 else torch.stack(list(packed))).to(dtype))

    def call(self, names: Sequence[str], function: Callable[..., Any], *args: Any) -> Any:
        """What a function of the structure's modules gives for rows; `names` are the tensors that it reads."""
        values = {name: self._values[name] for name in names}
        if self._num == 1:
            return self._with(values, function, args)
        leaves, layout = tree_flatten(args)
        given: list[Any] = []

        def one(values: dict[str, Tensor], rows: dict[int, Tensor]) -> list[Tensor]:
            mine = tree_unflatten([rows.get(place, leaf) for place, leaf in enumerate(leaves)], layout)
            given[:] = tree_flatten(self._with(values, function, mine))
            return [leaf for leaf in given[0] if isinstance(leaf, Tensor)]

        rows = {place: self._split(leaf) for place, leaf in enumerate(leaves) if isinstance(leaf, Tensor)}
        with ATTENDING, sdpa_kernel(SDPBackend.MATH):
            found = iter(torch.vmap(one)(values, rows))
        joined = [next(found).flatten(0, 1) if isinstance(leaf, Tensor) else leaf for leaf in given[0]]
        return tree_unflatten(joined, given[1])

    def _with(self, values: dict[str, Tensor], function: Callable[..., Any], args: Sequence[Any]) -> Any:
        return functional_call(self.structure.modules, values, (function, *args), tie_weights=False)

    def _split(self, rows: Tensor) -> Tensor:
        return rows.view(self._num, -1, *rows.shape[1:])
