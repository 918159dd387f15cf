"""NABirds: 555 visual categories of North American birds.

From the Cornell Lab of Ornithology, https://dl.allaboutbirds.org/nabirds: nabirds.tar.gz, once its terms of use are
accepted. Give that archive, or a folder that holds it or the folder nabirds with images.txt, image_class_labels.txt,
train_test_split.txt, classes.txt and images/.
"""

from utuning.data.fgvc.birds import LISTS, read_birds
from utuning.data.listing import Listing
from utuning.data.tree import Tree


def read(tree: Tree) -> Listing:
    """List the images; of the 1,011 nodes that classes.txt names, those with images are the classes."""
    return read_birds(tree.at(LISTS, "nabirds"))
