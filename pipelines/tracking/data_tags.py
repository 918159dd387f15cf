"""What a run says of its data beside the fingerprint, as tags of the tracking store."""

import json
from collections.abc import Iterable, Mapping
from typing import Any

from utuning.data.info import DatasetInfo
from utuning.data.protocols import AS_GIVEN
from utuning.data.shrinking import stored_as

VAL, SUBSET, IMAGES, WARNINGS = "data_val", "data_subset", "data_images", "data_warnings"
CHARS = 4000
"""The store's longest tag is 8,000 characters; whole warnings are left out at the end."""


def data_tags(info: DatasetInfo, notes: Iterable[str] = ()) -> dict[str, str]:
    """Where val comes from, whether it is a part of the known data set, how images are stored, what was remarked on."""
    kept: list[str] = []
    for warning in (*info.warnings, *notes):
        if len(json.dumps([*kept, warning])) <= CHARS:
            kept.append(warning)
    images = stored_as(info.shorter_side)
    return {VAL: info.val, SUBSET: str(info.subset).lower(), IMAGES: images, WARNINGS: json.dumps(kept)}


def read_data_tags(tags: Mapping[str, str]) -> dict[str, Any]:
    """The same as fields of a run's record; runs of before have none."""
    return {
        "val_from": tags.get(VAL, ""),
        "subset": tags.get(SUBSET) == "true",
        "data_images": tags.get(IMAGES, AS_GIVEN),
        "data_warnings": tuple(json.loads(tags.get(WARNINGS, "[]"))),
    }
