"""Oxford Flowers-102: 102 kinds of flowers, with an official val split.

From the Visual Geometry Group, https://www.robots.ox.ac.uk/~vgg/data/flowers/102/: 102flowers.tgz, imagelabels.mat and
setid.mat. Give a folder that holds the three, or jpg/ instead of the archive. Classes are published as numbers only.
"""

from utuning.data.faults import fault
from utuning.data.fgvc.mat import read_mat
from utuning.data.listing import Listing, list_images
from utuning.data.tree import Tree

_SETS = {"train": "trnid", "val": "valid", "test": "tstid"}


def read(tree: Tree) -> Listing:
    """List the images; ids count from 1, and the small set (`trnid`) is train."""
    tree = tree.at(("imagelabels.mat", "setid.mat"), "flowers-102")
    (labels,) = read_mat(tree, "imagelabels.mat", "labels")
    sets = dict(zip(_SETS, read_mat(tree, "setid.mat", *_SETS.values()), strict=True))
    ids = [int(number) for members in sets.values() for number in members]
    if len(set(ids)) != len(ids) or not all(1 <= number <= len(labels) for number in ids):
        raise fault(
            f"setid.mat of {tree.given!r} has {len(ids)} ids ({len(set(ids))} different) for {len(labels)} labels",
            "each id in one split, from 1 to the number of labels",
            "fetch imagelabels.mat and setid.mat again",
        )
    rows = [
        (f"jpg/image_{int(number):05d}.jpg", int(labels[int(number) - 1]), split)
        for split, members in sets.items()
        for number in members
    ]
    return list_images(tree, rows, {number: str(number) for number in map(int, labels)})
