"""The known data sets: a file of this package each, and a row here.

Counts are those that the owners publish; `published` is the division of train into train and val that VPT's comparison
uses (Jia et al., ECCV 2022), from memory of others and unverified.
"""

from types import ModuleType

from utuning.data.fgvc import cifar100, cub200, flowers102, nabirds, stanford_cars, stanford_dogs
from utuning.data.listing import Expected, Reader


def _row(module: ModuleType, archives: dict[str, str], expected: Expected) -> Reader:
    title, _, about = (module.__doc__ or "").partition("\n\n")
    name = module.__name__.rpartition(".")[2]
    return Reader(
        name=name,
        title=title.rstrip("."),
        about=" ".join(about.split()),
        read=module.read,
        archives=archives,
        expected=expected,
    )


READERS = {
    row.name: row
    for row in (
        _row(
            cub200,
            {"CUB_200_2011": "CUB_200_2011"},
            Expected(
                num_classes=200,
                counts={"train": 5994, "test": 5794},
                published={"train": 5394, "val": 600, "test": 5794},
            ),
        ),
        _row(
            nabirds,
            {"nabirds": "nabirds"},
            Expected(
                num_classes=555,
                counts={"train": 23929, "test": 24633},
                published={"train": 21536, "val": 2393, "test": 24633},
            ),
        ),
        _row(
            flowers102,
            {"102flowers": "jpg"},
            Expected(
                num_classes=102,
                counts={"train": 1020, "val": 1020, "test": 6149},
                per_class={"train": 10, "val": 10},
            ),
        ),
        _row(
            stanford_dogs,
            {"images": "Images", "lists": "train_list.mat"},
            Expected(
                num_classes=120,
                counts={"train": 12000, "test": 8580},
                per_class={"train": 100},
                published={"train": 10800, "val": 1200, "test": 8580},
            ),
        ),
        _row(
            stanford_cars,
            {"cars_train": "cars_train", "cars_test": "cars_test", "car_devkit": "devkit"},
            Expected(
                num_classes=196,
                counts={"train": 8144, "test": 8041},
                published={"train": 7329, "val": 815, "test": 8041},
            ),
        ),
        _row(
            cifar100,
            {"cifar-100-python": "cifar-100-python", "cifar-100-binary": "cifar-100-binary"},
            Expected(num_classes=100, counts={"train": 50000, "test": 10000}, per_class={"train": 500, "test": 100}),
        ),
    )
}
