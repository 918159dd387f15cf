"""Short, stable keys from the names of a site's layers."""

from collections.abc import Collection
from itertools import takewhile


def shared_path(names: Collection[str]) -> str:
    """The dotted path of the module that holds all of these layers: `blocks.3` for a block's; empty for the model."""
    levels = zip(*(name.split(".")[:-1] for name in names), strict=False)
    return ".".join(level[0] for level in takewhile(lambda level: len(set(level)) == 1, levels))


def short_names(names: Collection[str]) -> dict[str, str]:
    """Each name without the path that all share, as a key without dots: `blocks.3.attn.qkv` -> `attn_qkv`."""
    path = shared_path(names)
    return {name: name.removeprefix(f"{path}.").replace(".", "_") for name in names}
