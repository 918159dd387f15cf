"""Reaches into frozen layers while an op runs, and leaves no trace."""

from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from typing import Any

import torch
from torch import Tensor, nn

from utuning.tuners.roles import Tap

Taps = Mapping[str, Tap]


@contextmanager
def tapped(layers: Mapping[str, nn.Module], taps_K: Sequence[Taps], num_rows_K: Sequence[int]) -> Iterator[None]:
    """While it lasts, each member's rows pass through its own taps at the layers that it names.

    The rows of K members run together, in this order, so many of each: frozen layers keep rows apart in their first
    dimension, where a row may have become several, such as windows, but equally many for every row.
    """
    with ExitStack() as stack:
        for name in dict.fromkeys(name for taps in taps_K for name in taps):
            handle = layers[name].register_forward_hook(_through([taps.get(name) for taps in taps_K], num_rows_K))
            stack.callback(handle.remove)
        yield


def _through(taps_K: Sequence[Tap | None], num_rows_K: Sequence[int]) -> Any:
    def hook(layer: nn.Module, args: tuple[Tensor, ...], output: Tensor) -> Tensor:
        inputs, outputs = _split(args[0], num_rows_K), _split(output, num_rows_K)
        rows = [y if tap is None else tap(x, y) for tap, x, y in zip(taps_K, inputs, outputs, strict=True)]
        return rows[0] if len(rows) == 1 else torch.cat(rows)

    return hook


def _split(x: Tensor, num_rows_K: Sequence[int]) -> tuple[Tensor, ...]:
    each = x.shape[0] // sum(num_rows_K)
    return torch.split(x, [num_rows * each for num_rows in num_rows_K])
