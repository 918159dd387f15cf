"""Stanford Dogs: 120 breeds.

From Stanford, http://vision.stanford.edu/aditya86/ImageNetDogs/: images.tar and lists.tar. Give a folder that holds
both, or what is in them: Images/, train_list.mat and test_list.mat. The photos are part of ImageNet: a backbone that
was trained on ImageNet has seen them, and their labels.
"""

from utuning.data.faults import fault
from utuning.data.fgvc.mat import read_mat
from utuning.data.listing import Listing, list_images
from utuning.data.tree import Tree


def read(tree: Tree) -> Listing:
    """List the images. A class is named by its folder without the WordNet number: "Chihuahua".

    The names of the lists are without .jpg where they name annotations; both kinds are understood.
    """
    lists = tree.at(("train_list.mat", "test_list.mat"), "lists")
    rows: list[tuple[str, int, str]] = []
    names: dict[int, str] = {}
    for split in ("train", "test"):
        files, labels = read_mat(lists, f"{split}_list.mat", "file_list", "labels")
        if len(files) != len(labels):
            raise fault(
                f"{split}_list.mat of {tree.given!r} has {len(files)} files and {len(labels)} labels",
                "one label a file",
                "fetch lists.tar again",
            )
        for file, label in zip(files, map(int, labels), strict=True):
            path = file if file.endswith(".jpg") else f"{file}.jpg"
            name = path.partition("/")[0].partition("-")[2]
            if names.setdefault(label, name) != name:
                raise fault(
                    f"Class {label} of {tree.given!r} has the folders {names[label]!r} and {name!r}",
                    "one folder a class",
                    "fetch lists.tar again",
                )
            rows.append((f"Images/{path}", label, split))
    return list_images(tree, rows, names)
