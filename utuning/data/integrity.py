"""Comparing what is there with what is known of a data set."""

from collections import Counter
from collections.abc import Mapping

from utuning.data.faults import fault, shorten
from utuning.data.listing import Expected, Listing


def check_listing(listing: Listing, expected: Expected, given: str, *, subset: bool) -> list[str]:
    """Compare the listed images with the official counts.

    Returns:
        For a subset, what differs; nothing otherwise.

    Raises:
        DataError: counts that differ, with both numbers, unless the data set is declared a subset.
    """
    problems = [*_missing(listing), *_counts(listing, expected)]
    if problems and not subset:
        raise fault(
            f"{given!r} is not the complete data set: {'; '.join(problems)}",
            "the official data set, whole",
            "fetch what is missing, or give --subset (in a space, subset: true) to prepare this part",
        )
    return problems


def published_warnings(expected: Expected, counts: Mapping[str, int]) -> list[str]:
    """Compare the final splits with published ones that nobody could verify."""
    return [
        f"{split} has {counts.get(split, 0):,} images; published comparisons have {count:,} (unverified)"
        for split, count in expected.published.items()
        if counts.get(split, 0) != count
    ]


def _missing(listing: Listing) -> list[str]:
    names = list(listing.missing)
    return [f"{len(names)} listed images are missing: {shorten(names, 3)}"] if names else []


def _counts(listing: Listing, expected: Expected) -> list[str]:
    found = Counter(image.split for image in listing.images)
    classes = len({image.label for image in listing.images})
    problems = [] if classes == expected.num_classes else [f"{classes} classes instead of {expected.num_classes}"]
    problems += [
        f"{found[split]:,} {split} images instead of {count:,}"
        for split, count in expected.counts.items()
        if found[split] != count
    ]
    return problems + [text for split, count in expected.per_class.items() for text in _classes(listing, split, count)]


def _classes(listing: Listing, split: str, count: int) -> list[str]:
    found = Counter(image.label for image in listing.images if image.split == split)
    odd = [f"{name} {found[name]}" for name in listing.class_names if found[name] != count]
    return [f"{len(odd)} classes have other than {count} {split} images: {shorten(odd, 3)}"] if odd else []
