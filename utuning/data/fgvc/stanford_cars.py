"""Stanford Cars: 196 makes, models and years.

From Stanford, https://ai.stanford.edu/~jkrause/cars/car_dataset.html, which has not answered since 2023; complete
copies do as well: cars_train.tgz, cars_test.tgz, car_devkit.tgz and cars_test_annos_withlabels.mat. Give a folder that
holds the four, or what is in them: cars_train/, cars_test/, devkit/. The devkit's own cars_test_annos.mat has no
labels, which is why the fourth file is needed.
"""

from utuning.data.fgvc.mat import read_mat
from utuning.data.listing import Listing, list_images
from utuning.data.tree import Tree

_TEST = "cars_test_annos_withlabels.mat"
_TRAIN, _META = "devkit/cars_train_annos.mat", "devkit/cars_meta.mat"


def read(tree: Tree) -> Listing:
    """List the images; class ids count from 1."""
    tree = tree.at((_TRAIN, _META), "stanford_cars")
    test = _TEST if _TEST in tree else f"devkit/{_TEST}"
    (names,) = read_mat(tree, _META, "class_names")
    rows = []
    for split, file in (("train", _TRAIN), ("test", test)):
        (annotations,) = read_mat(tree, file, "annotations")
        folder = _folder(tree, f"cars_{split}", [one["fname"] for one in annotations])
        rows += [(f"{folder}/{one['fname']}", int(one["class"]), split) for one in annotations]
    return list_images(tree, rows, dict(enumerate(map(str, names), start=1)))


def _folder(tree: Tree, name: str, files: list[str]) -> str:
    """Give the folder of the images; copies have it in another of the same name."""
    return f"{name}/{name}" if any(f"{name}/{name}/{file}" in tree for file in files) else name
