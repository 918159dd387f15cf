"""CIFAR-100: 100 classes of 32-pixel photos; not fine-grained, but small and known to all.

From the University of Toronto, https://www.cs.toronto.edu/~kriz/cifar.html: cifar-100-python.tar.gz or
cifar-100-binary.tar.gz. Give either archive, or the folder cifar-100-python (train, test, meta) or cifar-100-binary
(train.bin, test.bin, fine_label_names.txt). Both give the same data set, with the fine labels.
"""

from utuning.data.listing import Listing
from utuning.data.tree import Tree


def read(tree: Tree) -> Listing:
    """List the images, as uncompressed bitmaps: their bytes, and so the data version, depend on no compressor."""
    # The table of readers is part of `--help`, which must not wait for numpy.
    from utuning.data.fgvc.cifar import list_cifar

    return list_cifar(tree)
