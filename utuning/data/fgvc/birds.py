"""The text lists that CUB-200-2011 and NABirds share."""

from utuning.data.faults import fault
from utuning.data.listing import Listing, list_images, numbered_lines, whole
from utuning.data.tree import Tree

LISTS = ("images.txt", "image_class_labels.txt", "train_test_split.txt", "classes.txt")


def read_birds(tree: Tree) -> Listing:
    """Join the four lists on the image's id, whatever an id looks like; 1 in the split list means train.

    Raises:
        DataError: lists that do not fit together.
    """
    paths, labels, train, classes = (numbered_lines(tree, name) for name in LISTS)
    for name, found in zip(LISTS[1:3], (labels, train), strict=True):
        if found.keys() != paths.keys():
            raise fault(
                f"images.txt of {tree.given!r} has {len(paths)} ids, {name} has {len(found)}, "
                f"and {len(found.keys() ^ paths.keys())} are only in one of them",
                "lists of the same images",
                "fetch the original lists again",
            )
    rows = [
        (f"images/{path}", whole(labels[key], "image_class_labels.txt"), _SPLITS.get(train[key], train[key]))
        for key, path in paths.items()
    ]
    return list_images(tree, rows, {whole(key, "classes.txt"): name for key, name in classes.items()})


_SPLITS = {"1": "train", "0": "test"}
