"""Bounds that a setting's annotation carries, read by whoever checks settings."""

from dataclasses import dataclass


@dataclass(frozen=True)
class AtLeast:
    """The smallest value that a number may have."""

    minimum: float
