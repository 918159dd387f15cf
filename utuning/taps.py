"""Reaches into frozen layers while an op runs, and leaves no trace."""

from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from typing import Any

import torch
from torch import Tensor, nn

from utuning.tuners.roles import Tap

Taps = Mapping[str, Tap]


@contextmanager
def tapped(layers: Mapping[str, nn.Module], taps_K: Sequence[Taps]) -> Iterator[None]:
    """While it lasts, each member's rows pass through its own taps at the layers that it names.

    The rows of K members run together, in this order and equally many of each: frozen layers keep rows apart in their
    first dimension, so a member's rows are one of K equal chunks.
    """
    with ExitStack() as stack:
        for name in dict.fromkeys(name for taps in taps_K for name in taps):
            handle = layers[name].register_forward_hook(_through([taps.get(name) for taps in taps_K]))
            stack.callback(handle.remove)
        yield


def _through(taps_K: Sequence[Tap | None]) -> Any:
    def hook(layer: nn.Module, args: tuple[Tensor, ...], output: Tensor) -> Tensor:
        inputs, outputs = args[0].chunk(len(taps_K)), output.chunk(len(taps_K))
        rows = [y if tap is None else tap(x, y) for tap, x, y in zip(taps_K, inputs, outputs, strict=True)]
        return rows[0] if len(rows) == 1 else torch.cat(rows)

    return hook
