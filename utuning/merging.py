"""A trained member as a plain timm model: what it changed is folded into a copy of the backbone's own layers.

The merged model needs nothing of this package to run; it costs a whole backbone a task, where a bundle costs a tuner.
"""

import copy
from typing import Any, cast

import torch
from torch import nn

from utuning.architectures import Trunk
from utuning.backbone import Backbone
from utuning.errors import ConfigError
from utuning.member import OWN_WEIGHTS, Member
from utuning.tuners import ROWS
from utuning.tuners.placing import Placed
from utuning.tuners.roles import Inside


@torch.no_grad()
def merged_model(backbone: Backbone, member: Member) -> nn.Module:
    """A copy of the backbone, in eval mode, that maps normalised images (B, 3, H, W) to the member's scores (B, C).

    Its type and the names of its tensors are timm's own for this model with C classes; a bias is new where a shift had
    to go into a layer without one. Only tuners inside ops, own weights and a linear head can be merged.

    Raises:
        ConfigError: the member has something that cannot.
    """
    head = _linear_head(member)
    for placed in member.placed:
        _check_mergeable(backbone.trunk, placed)
    model = copy.deepcopy(backbone.trunk.model)
    for name, value in member.tensors().items():
        if name.startswith(OWN_WEIGHTS):
            model.get_parameter(name.removeprefix(OWN_WEIGHTS)).copy_(value)
    trunk = Trunk(model, backbone.trunk.architecture)
    for placed in member.placed:
        assert placed.where is not None, "what stands inside has a site"
        cast(Inside, placed.tuner).merge(trunk.site(*placed.where).layers)
    _put_head(model, head)
    return model.requires_grad_(False).eval()


def _linear_head(member: Member) -> nn.Linear:
    head = member.parts["head"]
    if type(head) is nn.Linear:
        return head
    named = [row.name for row in ROWS if row.role == "head" and row.target.endswith(f":{type(head).__name__}")]
    method = named[0] if named else type(head).__name__
    raise ConfigError(f"{method} cannot be merged: a timm model ends in a linear head; deploy the bundle instead")


def _check_mergeable(trunk: Trunk, placed: Placed) -> None:
    method = placed.name[0]
    if placed.role != "inside" or placed.where is None:
        raise ConfigError(
            f"{method} cannot be merged: its role is {placed.role!r}, and only what works inside an op folds into the "
            "backbone's layers; deploy the bundle instead"
        )
    site = trunk.site(*placed.where)
    for other in trunk.all_sites():
        shared = site.layers.keys() & other.layers.keys()
        if shared and other.kind != "block" and other is not site:
            raise ConfigError(
                f"{method} cannot be merged: {site.kind} and {other.kind} at depth {site.depth} share the layer "
                f"{min(shared)}; deploy the bundle instead"
            )


def _put_head(model: nn.Module, head: nn.Linear) -> None:
    timm_model = cast(Any, model)
    with torch.random.fork_rng(devices=[]):  # timm draws initial values that are overwritten here
        timm_model.reset_classifier(head.out_features)
    found = timm_model.get_classifier()
    # A distilled model has two classifiers and averages them.
    for classifier in found if isinstance(found, tuple) else (found,):
        if not isinstance(classifier, nn.Linear) or classifier.weight.shape != head.weight.shape:
            raise ConfigError(
                f"a {type(model).__name__} cannot take a linear head of {head.in_features} features as its classifier; "
                "deploy the bundle instead"
            )
        classifier.load_state_dict(head.state_dict())
