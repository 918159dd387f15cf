"""The end that timm's transformers with prefix tokens share: their final norm, and how they pool."""

from functools import partial
from typing import TypeAlias

from timm.layers import global_pool_nlc
from timm.models.deit import VisionTransformerDistilled
from timm.models.eva import Eva
from timm.models.vision_transformer import VisionTransformer
from torch import Tensor

from utuning.architectures.sites import OpSite, named_layers

Transformer: TypeAlias = VisionTransformer | Eva


def sequence_norm(model: Transformer) -> OpSite:
    """The final norm and pooling, at the depth of the last block."""
    parts = (model.norm, model.attn_pool, model.fc_norm)
    return OpSite(
        kind="norm",
        depth=len(model.blocks) - 1,
        width=model.embed_dim,
        run=partial(_features, model),
        layers=named_layers(model, *(part for part in parts if part is not None)),
        grid=tuple(model.patch_embed.grid_size),
    )


def pool_sequence(model: Transformer, x_BND: Tensor) -> Tensor:
    """Pool tokens of any width as the model does.

    A learned pooling reads the model's own width only; the mean of the image tokens stands in for it.
    """
    if isinstance(model, VisionTransformerDistilled):
        pooled_BD: Tensor = model.forward_head(x_BND, pre_logits=True)
    elif model.attn_pool is not None:
        pooled_BD = global_pool_nlc(x_BND, pool_type="avg", num_prefix_tokens=model.num_prefix_tokens)
    else:
        pooled_BD = model.pool(x_BND)
    return pooled_BD


def _features(model: Transformer, x_BND: Tensor) -> Tensor:
    features_BF: Tensor = model.forward_head(model.norm(x_BND), pre_logits=True)
    return features_BF
