"""CUB-200-2011: 200 kinds of birds.

From the Caltech vision group, https://www.vision.caltech.edu/datasets/cub_200_2011/: CUB_200_2011.tgz. Give that
archive, or a folder that holds it or the folder CUB_200_2011 with images.txt, image_class_labels.txt,
train_test_split.txt, classes.txt and images/.
"""

from utuning.data.fgvc.birds import LISTS, read_birds
from utuning.data.listing import Listing
from utuning.data.tree import Tree


def read(tree: Tree) -> Listing:
    """List the images; ids count from 1, and class names keep their number: "001.Black_footed_Albatross"."""
    return read_birds(tree.at(LISTS, "CUB_200_2011"))
