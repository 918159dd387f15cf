"""Invented two-part names for the species."""

from __future__ import annotations

import numpy as np

_GENUS_STARTS = ("luma", "pyra", "fana", "noxi", "cala", "vespi", "mira", "osso", "teli", "brio")
_GENUS_ENDS = ("tergus", "noton", "dorsa", "phora", "lampra")
_EPITHET_STARTS = (
    "rivul", "mont", "silv", "aren", "palud", "prat", "umbr", "aur", "fulv", "gracil", "vesper",
    "nitid", "bruman", "lacust", "ferrug", "cinct",
)  # fmt: skip
_EPITHET_ENDS = ("aris", "ensis", "ata", "icola", "ella", "osa", "ina", "escens", "oides", "ula")


def genus_name(seed: int, genus: int) -> str:
    """Name of genus number ``genus`` (0 to 49); distinct numbers have distinct names."""
    order = np.random.default_rng([seed, 11]).permutation(len(_GENUS_STARTS) * len(_GENUS_ENDS))
    start, end = divmod(int(order[genus]), len(_GENUS_ENDS))
    return _GENUS_STARTS[start] + _GENUS_ENDS[end]


def epithet(seed: int, number: int) -> str:
    """Second part of the name of species ``number`` (0 to 159), distinct for distinct numbers."""
    order = np.random.default_rng([seed, 12]).permutation(len(_EPITHET_STARTS) * len(_EPITHET_ENDS))
    start, end = divmod(int(order[number]), len(_EPITHET_ENDS))
    return _EPITHET_STARTS[start] + _EPITHET_ENDS[end]
