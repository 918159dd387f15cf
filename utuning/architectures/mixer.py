"""Op sites of timm's MLP-Mixer. Its token MLP counts the tokens, so no prompt can enter."""

from collections.abc import Sequence
from functools import partial

from timm.models.mlp_mixer import MixerBlock, MlpMixer
from torch import Tensor, nn

from utuning.architectures.sites import BlockSite, OpSite, named_layers
from utuning.architectures.trunk import Architecture


def _matches(model: nn.Module) -> bool:
    return isinstance(model, MlpMixer) and all(type(block) is MixerBlock for block in model.blocks)


def _token_mlp(block: MixerBlock, x_BND: Tensor) -> Tensor:
    added: Tensor = block.drop_path(block.mlp_tokens(block.norm1(x_BND).transpose(1, 2)).transpose(1, 2))
    return added


def _mlp(block: MixerBlock, x_BND: Tensor) -> Tensor:
    added: Tensor = block.drop_path(block.mlp_channels(block.norm2(x_BND)))
    return added


def _block_site(model: MlpMixer, depth: int) -> BlockSite:
    block = model.blocks[depth]
    site = partial(OpSite, depth=depth, width=model.embed_dim, grid=tuple(model.stem.grid_size))
    token_layers, mlp_layers = (
        named_layers(model, block.norm1, block.mlp_tokens),
        named_layers(model, block.norm2, block.mlp_channels),
    )
    return BlockSite(
        ops=(
            site(kind="token_mlp", run=partial(_token_mlp, block), norm=block.norm1, layers=token_layers),
            site(kind="mlp", run=partial(_mlp, block), norm=block.norm2, layers=mlp_layers),
        ),
        whole=site(kind="block", run=block, layers={**token_layers, **mlp_layers}),
    )


def _blocks(model: MlpMixer) -> Sequence[BlockSite]:
    return [_block_site(model, depth) for depth in range(len(model.blocks))]


def _stem(model: MlpMixer) -> OpSite:
    layers = named_layers(model, model.stem)
    return OpSite(kind="stem", depth=0, width=model.embed_dim, run=model.stem, layers=layers)


def _features(model: MlpMixer, x_BND: Tensor) -> Tensor:
    features_BF: Tensor = model.forward_head(model.norm(x_BND), pre_logits=True)
    return features_BF


def _norm(model: MlpMixer) -> OpSite:
    return OpSite(
        kind="norm",
        depth=len(model.blocks) - 1,
        width=model.embed_dim,
        run=partial(_features, model),
        layers=named_layers(model, model.norm),
        grid=tuple(model.stem.grid_size),
    )


def _pool(model: MlpMixer, x_BND: Tensor) -> Tensor:
    pooled_BD: Tensor = model.forward_head(x_BND, pre_logits=True)
    return pooled_BD


MIXER = Architecture(name="mixer", matches=_matches, stem=_stem, blocks=_blocks, norm=_norm, pool=_pool)
