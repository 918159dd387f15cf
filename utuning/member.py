"""A member of a cohort: one trial's tuners, head, optimiser, schedule and state, on a shared frozen backbone."""

from collections.abc import Mapping, Sequence
from functools import cached_property
from types import MappingProxyType
from typing import Any, cast

import torch
from torch import Generator, Tensor, nn
from torch.nn.functional import cross_entropy

from utuning.architectures import OpSite, Trunk
from utuning.backbone import Backbone
from utuning.configs import TrainConfig, TrialConfig, TunerConfig
from utuning.linear import empty_linear
from utuning.schedule import lr_fraction
from utuning.taps import Taps
from utuning.tuners.placing import build_head, build_placed, expand, selected_weights
from utuning.tuners.roles import Beside, Inside, Instead, Side, Tokens

HEAD_STD = 0.02
OWN_WEIGHTS = "backbone."
NO_TAPS: Taps = MappingProxyType({})


class Member:
    """Tuners on a backbone's op sites, a linear head, and how they train.

    Args:
        backbone: the frozen backbone that the member shares.
        num_classes: width of the head.
        config: learning rate, schedule, seed and regularisation.
        tuners: what to place where; none is a linear probe.
        steps_per_epoch: needed to train, not to predict.

    Raises:
        PlacementError: a placement that matches no site, or two tuners on one site.
        ConfigError: an unknown method or setting.
    """

    images: Sequence[int] | None = None
    """A member takes every image of a batch."""

    def __init__(
        self,
        backbone: Backbone,
        *,
        num_classes: int,
        config: TrainConfig,
        tuners: Sequence[TunerConfig] = (),
        steps_per_epoch: int = 1,
    ) -> None:
        self.backbone_fingerprint = backbone.fingerprint
        self.num_classes = num_classes
        self.tuners = tuple(tuners)
        self.config = config
        self.steps_per_epoch = steps_per_epoch
        self.num_steps_done = 0
        self._keep: dict[tuple[str, int], Tensor] = {}
        generator = Generator().manual_seed(config.seed)
        expanded = expand(tuners)
        self._own_names = selected_weights(backbone.trunk, expanded)
        self.own_trunk = backbone.trainable_trunk(self._own_names) if self._own_names else None
        self._own_sites = _from_first(self.own_trunk, self._own_names) if self.own_trunk else {}
        # Tuners that read a site's projections or norms read the member's own, where it trains them.
        self.placed = build_placed(self.own_trunk or backbone.trunk, expanded, generator)
        self._at = {(each.role, each.where): each.tuner for each in self.placed}
        self.parts = nn.ModuleDict({"tuners": nn.ModuleDict()})
        for each in self.placed:
            _register(cast(nn.ModuleDict, self.parts["tuners"]), each.name, each.tuner)
        head = build_head(expanded, backbone.num_features, num_classes, generator)
        self.parts["head"] = head or _linear_head(backbone.num_features, num_classes, generator)
        self.parts.to(next(backbone.trunk.model.parameters()).device)
        self.side = cast(Side | None, self._at.get(("side", None)))
        self.first_depth = self._first_depth()
        self.reads_all_tokens = self.side is not None or any(
            getattr(each.tuner, "mixes_tokens", False) for each in self.placed
        )
        self._taps: dict[tuple[str, int] | None, Taps] = {
            where: cast(Inside, tuner).taps() for (role, where), tuner in self._at.items() if role == "inside"
        }

    @classmethod
    def from_trial(cls, backbone: Backbone, trial: TrialConfig, *, steps_per_epoch: int = 1) -> "Member":
        """The member that a trial trains."""
        return cls(
            backbone,
            num_classes=trial.num_classes,
            config=trial.train,
            tuners=trial.tuners,
            steps_per_epoch=steps_per_epoch,
        )

    @cached_property
    def optimiser(self) -> torch.optim.AdamW:
        """AdamW over everything that this member trains; prediction never builds it."""
        return _optimiser(self.parameters(), self.config)

    def parameters(self) -> list[nn.Parameter]:
        """Everything that this member trains."""
        return [*self.parts.parameters(), *self._own_weights().values()]

    def num_parameters(self) -> dict[str, int]:
        """Trainable parameters of the tuners, the head and, where a method trains its own copies, the backbone."""
        counts = {part: sum(p.numel() for p in self.parts[part].parameters()) for part in ("tuners", "head")}
        return {**counts, "backbone": sum(p.numel() for p in self._own_weights().values())}

    def own(self, site: OpSite) -> OpSite | None:
        """The same site of the trunk whose weights this member trains, from the first trained weight on."""
        return self._own_sites.get(site.where)

    def beside(self, site: OpSite) -> Beside | None:
        """The tuner that stands beside this op, if any."""
        return cast(Beside | None, self._at.get(("beside", site.where)))

    def instead(self, site: OpSite) -> Instead | None:
        """The tuner that replaces this op, if any."""
        return cast(Instead | None, self._at.get(("instead", site.where)))

    def taps(self, site: OpSite) -> Taps:
        """What changes the outputs of this op's layers."""
        return self._taps.get(site.where, NO_TAPS)

    def tokens(self, site: OpSite) -> Tokens | None:
        """The prompt that enters the stream before this block, if any."""
        return cast(Tokens | None, self._at.get(("tokens", site.where)))

    def keep_rows(self, site: OpSite) -> Tensor | None:
        """Drop-path's multiplier for this op's branch in the step that is under way, shape (B,)."""
        return self._keep.get(site.where)

    def logits(self, features_BF: Tensor) -> Tensor:
        """Class scores, (B, num_classes)."""
        scores: Tensor = self.parts["head"](features_BF)
        return scores

    def loss(self, scores_BC: Tensor, labels_B: Tensor) -> Tensor:
        """Each image's training loss, shape (B,): the head's own, else cross-entropy."""
        own = getattr(self.parts["head"], "loss", None)
        if own is not None:
            return cast(Tensor, own(scores_BC, labels_B))
        return cross_entropy(scores_BC, labels_B, reduction="none", label_smoothing=self.config.label_smoothing)

    def draw_drop_path(self, trunk: Trunk, rows: slice, global_batch_size: int) -> None:
        """Draw this step's drop-path for the global batch and keep this worker's rows.

        A function of (seed, step) alone, so that a member draws the same in any cohort and on any number of workers. It
        applies from the first tuned depth on: below it the rows are shared with members that may drop others.
        """
        self._keep = {}
        if self.config.drop_path == 0.0 or self.first_depth is None:
            return
        sites = [op for block in trunk.blocks[self.first_depth :] for op in block.ops]
        generator = Generator().manual_seed(self.config.seed * 1_000_003 + self.num_steps_done)
        uniform = torch.rand(len(sites), global_batch_size, generator=generator)[:, rows]
        keep_probability = 1.0 - self.config.drop_path
        keep = (uniform < keep_probability).to(self.parameters()[0]) / keep_probability
        self._keep = {site.where: keep[i] for i, site in enumerate(sites)}

    def end_drop_path(self) -> None:
        """Evaluation keeps every row."""
        self._keep = {}

    def update(self) -> None:
        """One optimiser step at the schedule's rate, on the gradients that are there."""
        total = self.config.epochs * self.steps_per_epoch
        warmup = round(self.config.warmup_epochs * self.steps_per_epoch)
        lr = self.config.lr * lr_fraction(self.num_steps_done, total, min(warmup, total // 2))
        for group in self.optimiser.param_groups:
            group["lr"] = lr
        self.optimiser.step()
        self.optimiser.zero_grad(set_to_none=True)
        self.num_steps_done += 1

    def tensors(self) -> dict[str, Tensor]:
        """The trained tensors by stable names, such as `tuners.p_adapter.attn.3.down.weight` and `head.bias`."""
        own = {OWN_WEIGHTS + name: value for name, value in self._own_weights().items()}
        return {name: value.detach().contiguous() for name, value in {**self.parts.state_dict(), **own}.items()}

    def load_tensors(self, tensors: Mapping[str, Tensor]) -> None:
        """Put trained tensors back; names and shapes must be the member's own."""
        self.parts.load_state_dict({k: v for k, v in tensors.items() if not k.startswith(OWN_WEIGHTS)})
        with torch.no_grad():
            for name, parameter in self._own_weights().items():
                parameter.copy_(tensors[OWN_WEIGHTS + name])

    def state_dict(self) -> dict[str, Any]:
        """Everything that resuming needs: tensors, optimiser, step."""
        return {
            "tensors": self.tensors(),
            "optimiser": self.optimiser.state_dict(),
            "num_steps_done": self.num_steps_done,
        }

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Go on where `state_dict` was taken."""
        self.load_tensors(state["tensors"])
        self.optimiser.load_state_dict(state["optimiser"])
        self.num_steps_done = state["num_steps_done"]

    def _first_depth(self) -> int | None:
        """Depth from which on the stream is the member's own; None if it never is."""
        depths = [each.where[1] for each in self.placed if each.where is not None]
        depths += [depth for _, depth in self._own_sites]
        depths += [] if self.side is None or self.side.first_depth is None else [self.side.first_depth]
        return min(depths, default=None)

    def _own_weights(self) -> dict[str, nn.Parameter]:
        """The copies of the backbone's parameters that this member trains."""
        if self.own_trunk is None:
            return {}
        return {name: self.own_trunk.model.get_parameter(name) for name in sorted(self._own_names)}


def _register(into: nn.ModuleDict, name: Sequence[str], tuner: nn.Module) -> None:
    """Put a tuner under its name, level by level."""
    first, *rest = name
    if not rest:
        into[first] = tuner
        return
    if first not in into:
        into[first] = nn.ModuleDict()
    _register(cast(nn.ModuleDict, into[first]), rest, tuner)


def _from_first(trunk: Trunk, names: frozenset[str]) -> dict[tuple[str, int], OpSite]:
    """The sites from the first one on that has a trained weight; a weight that no site holds belongs to the stem."""
    sites = [site for site in trunk.all_sites() if site.kind != "block"]
    held = [_held(trunk, site, names) for site in sites]
    first = 0 if names - set().union(*held) else next(place for place, found in enumerate(held) if found)
    return {site.where: site for site in sites[first:]}


def _held(trunk: Trunk, site: OpSite, names: frozenset[str]) -> set[str]:
    """Those of the names that lie in a site's layers, or loose in the module of its block."""
    block = next((block for block in trunk.blocks if site in block.ops), None)
    holder = "" if block is None else trunk.holder(block.whole.layers)
    modules = [*site.layers, *([holder] if holder else [])]
    return {name for name in names if any(name.startswith(f"{module}.") for module in modules)}


def _linear_head(num_features: int, num_classes: int, generator: Generator) -> nn.Linear:
    head = empty_linear(num_features, num_classes)
    nn.init.trunc_normal_(head.weight, std=HEAD_STD, generator=generator)
    nn.init.zeros_(head.bias)
    return head


def _optimiser(parameters: Sequence[nn.Parameter], config: TrainConfig) -> torch.optim.AdamW:
    """AdamW; 1-D parameters (biases, scales) take no weight decay."""
    # No kernel runs on shapes alone.
    fused = all(p.device.type != "meta" for p in parameters)
    groups = [
        {"params": [p for p in parameters if p.ndim > 1], "weight_decay": config.weight_decay},
        {"params": [p for p in parameters if p.ndim <= 1], "weight_decay": 0.0},
    ]
    return torch.optim.AdamW([group for group in groups if group["params"]], lr=config.lr, fused=fused)
