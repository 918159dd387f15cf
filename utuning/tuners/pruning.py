"""Structural pruning (LST, arXiv 2206.06522): a narrow network cut out of a frozen one.

Each weight of the backbone has an importance: its size, or its Fisher information. Layer by layer, in the order of a
forward pass: of a weight (out, in), the columns are those that the layer before has kept; the rows kept are those whose
importance, summed over these columns, is largest. Queries, keys and values share one choice of rows, by the product of
their three sums. Biases, norms and layer scales follow the rows that they belong to.

Decided here, since the sources leave it open: kept rows stay in their order; the layer before the first block is the
stem's projection; before a block stands the last kept one; norms over a single head stay as they were.
What the method brings with it: nothing keeps a row within its head, nor the same channels on both sides of a skip.
"""

from collections.abc import Callable, Iterable, Iterator, Mapping
from itertools import islice

import torch
from torch import Tensor, nn
from torch.nn.functional import cross_entropy

from utuning.architectures import Trunk
from utuning.backbone import Backbone
from utuning.batch import Batch
from utuning.errors import ConfigError

Importance = Mapping[str, Tensor]


def weight_importance(trunk: Trunk) -> dict[str, Tensor]:
    """The size of each weight of the stem and the blocks, by its name in the model."""
    return {name: trunk.model.get_parameter(name).detach().abs() for name in _weights(trunk)}


def fisher_importance(
    backbone: Backbone, batches: Iterable[Batch], head: Callable[[Tensor], Tensor], *, num_samples: int = 1024
) -> dict[str, Tensor]:
    """The diagonal of the empirical Fisher information: each weight's squared gradient, one image at a time, averaged.

    Args:
        backbone: the frozen backbone; a copy of its weights takes the gradients.
        batches: training images with labels, such as a loader's. Padding is left out.
        head: class scores from features_BF, such as `logits` of a member that was trained as a linear probe.
        num_samples: how many images to read at most; the authors' default.

    Raises:
        ConfigError: no image was given.
    """
    names = _weights(backbone.trunk)
    model = backbone.trainable_trunk(names).model
    weights = [model.get_parameter(name) for name in names]
    total = [torch.zeros_like(weight) for weight in weights]
    count = 0
    for image_13HW, label_1 in islice(_images(backbone, batches), num_samples):
        loss = cross_entropy(head(model(image_13HW)), label_1)
        for sum_of_squares, gradient in zip(total, torch.autograd.grad(loss, weights), strict=True):
            sum_of_squares += gradient.square()
        count += 1
    if count == 0:
        raise ConfigError("Fisher importance needs training images, and none was given")
    return {name: squares / count for name, squares in zip(names, total, strict=True)}


@torch.no_grad()
def prune_into(
    blocks: Mapping[int, nn.Module], norm: nn.Module, trunk: Trunk, importance: Importance
) -> dict[str, Tensor]:
    """Fill narrow blocks, by the depth that each is cut from, and the norm behind them.

    Returns:
        The rows kept of each frozen layer, by its name in the model; of a fused `qkv`, the rows of each third.
    """
    width = next(iter(norm.parameters())).numel()
    kept: dict[str, Tensor] = {}
    stem = _projection(trunk)
    rows = kept[stem] = _top(importance[f"{stem}.weight"].flatten(1).sum(dim=1), width)
    names = {id(module): name for name, module in trunk.model.named_modules()}
    for depth, side in blocks.items():
        frozen = trunk.blocks[depth].whole.run
        assert isinstance(frozen, nn.Module), "a ladder was built from it"
        rows = _prune_block(side, frozen, names[id(frozen)], rows, importance, kept)
    for last in trunk.norm.layers.values():
        if type(last) is type(norm):
            _copy(norm, last, rows)
            break
    return kept


def _prune_block(
    side: nn.Module, frozen: nn.Module, where: str, columns: Tensor, importance: Importance, kept: dict[str, Tensor]
) -> Tensor:
    """Fill one block from its input columns on; returns the rows of its last layer."""

    def scores(layer: str, columns: Tensor) -> Tensor:
        return importance[f"{where}.{layer}.weight"][:, columns].double().sum(dim=1)

    def put(layer: str, rows: Tensor, columns: Tensor | None = None) -> None:
        _copy(side.get_submodule(layer), frozen.get_submodule(layer), rows, columns)

    def choose(layer: str, columns: Tensor) -> Tensor:
        rows = kept[f"{where}.{layer}"] = _top(scores(layer, columns), _num_rows(side, layer))
        put(layer, rows, columns)
        return rows

    put("norm1", columns)
    shared_3D = scores("attn.qkv", columns).view(3, -1)
    values = kept[f"{where}.attn.qkv"] = _top(shared_3D.prod(dim=0), _num_rows(side, "attn.qkv") // 3)
    put("attn.qkv", torch.cat([values + third * shared_3D.shape[1] for third in range(3)]), columns)
    put("attn.norm", values)
    middle = choose("attn.proj", values)
    put("ls1", middle)
    put("norm2", middle)
    hidden = choose("mlp.fc1", middle)
    put("mlp.norm", hidden)
    out = choose("mlp.fc2", hidden)
    put("ls2", out)
    return out


def _copy(side: nn.Module, frozen: nn.Module, rows: Tensor, columns: Tensor | None = None) -> None:
    """Copy rows of every parameter of one layer, and of a matrix these columns; an identity has none."""
    for name, parameter in side.named_parameters(recurse=False):
        values = frozen.get_parameter(name)[rows]
        parameter.copy_(values if columns is None or values.ndim == 1 else values[:, columns])


def _top(scores: Tensor, count: int) -> Tensor:
    """The places of the largest scores, in their order."""
    return scores.topk(count).indices.sort().values


def _num_rows(side: nn.Module, layer: str) -> int:
    return len(side.get_submodule(layer).get_parameter("weight"))


def _weights(trunk: Trunk) -> list[str]:
    """The weights, not the biases, of the stem and of all blocks, by name."""
    layers = [layer for site in (trunk.stem, *(block.whole for block in trunk.blocks)) for layer in site.layers.items()]
    return [f"{name}.weight" for name, layer in layers if _ndim(layer) > 1]


def _projection(trunk: Trunk) -> str:
    """The stem's last layer that has a row for each channel of the stream."""
    return [name for name, layer in trunk.stem.layers.items() if _ndim(layer) > 1][-1]


def _ndim(layer: nn.Module) -> int:
    weight = getattr(layer, "weight", None)
    return weight.ndim if isinstance(weight, Tensor) else 0


def _images(backbone: Backbone, batches: Iterable[Batch]) -> Iterator[tuple[Tensor, Tensor]]:
    """Real images, normalised as the backbone wants them, one at a time, with their labels."""
    device = next(backbone.trunk.model.parameters()).device
    for batch in batches:
        batch = batch.to(device)
        images = backbone.normalise(batch.pixels)
        for place in batch.weight.nonzero().flatten().tolist():
            yield images[place : place + 1], batch.labels[place : place + 1]
