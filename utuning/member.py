"""A member of a cohort: one trial's tuners, head, optimiser and schedule. Nothing of it is shared."""

from collections.abc import Mapping, Sequence
from typing import Any, cast

import torch
from torch import Generator, Tensor, nn

from utuning.architectures import OpSite, Trunk
from utuning.backbone import Backbone
from utuning.configs import TrainConfig, TunerConfig
from utuning.errors import PlacementError
from utuning.linear import empty_linear
from utuning.placement import resolve
from utuning.schedule import lr_fraction
from utuning.tuners import build_tuner, tuner_row

HEAD_STD = 0.02


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

    def __init__(
        self,
        backbone: Backbone,
        *,
        num_classes: int,
        config: TrainConfig,
        tuners: Sequence[TunerConfig] = (),
        steps_per_epoch: int = 1,
    ) -> None:
        self.config = config
        self.steps_per_epoch = steps_per_epoch
        self.num_steps_done = 0
        self.first_depth: int | None = None
        self.trunk: Trunk | None = None
        self._keep: dict[tuple[str, int], Tensor] = {}
        self._by_site: dict[tuple[str, int], nn.Module] = {}
        generator = Generator().manual_seed(config.seed)
        self.parts = nn.ModuleDict({"tuners": nn.ModuleDict()})
        for tuner in tuners:
            self._place(backbone, tuner, generator)
        self.parts["head"] = _head(backbone.num_features, num_classes, generator)
        self.parts.to(next(backbone.trunk.model.parameters()).device)
        self.optimiser = _optimiser(self.parameters(), config)

    def parameters(self) -> list[nn.Parameter]:
        """Everything that this member trains."""
        return list(self.parts.parameters())

    def num_parameters(self) -> dict[str, int]:
        """Trainable parameters of the tuners, the head and, for full fine-tuning, the backbone."""
        return {
            part: sum(p.numel() for p in self.parts[part].parameters()) if part in self.parts else 0
            for part in ("tuners", "head", "backbone")
        }

    def tuner_at(self, site: OpSite) -> nn.Module | None:
        """The tuner that stands beside this op, if any."""
        return self._by_site.get((site.kind, site.depth))

    def keep_rows(self, site: OpSite) -> Tensor | None:
        """Drop-path's multiplier for this op's branch in the step that is under way, shape (B, 1, 1)."""
        return self._keep.get((site.kind, site.depth))

    def logits(self, features_BF: Tensor) -> Tensor:
        """Class scores, (B, num_classes)."""
        scores: Tensor = self.parts["head"](features_BF)
        return scores

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
        self._keep = {(s.kind, s.depth): keep[i].view(-1, 1, 1) for i, s in enumerate(sites)}

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
        """The trained tensors by stable names, such as `tuners.attn.3.down.weight` and `head.bias`."""
        return {name: value.detach().contiguous() for name, value in self.parts.state_dict().items()}

    def load_tensors(self, tensors: Mapping[str, Tensor]) -> None:
        """Put trained tensors back; names and shapes must be the member's own."""
        self.parts.load_state_dict(dict(tensors))

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

    def _place(self, backbone: Backbone, tuner: TunerConfig, generator: Generator) -> None:
        if tuner_row(tuner.method).trains_backbone:
            self.trunk = backbone.trainable_trunk()
            self.parts["backbone"] = self.trunk.model
            self.first_depth = 0
            return
        trunk = backbone.trunk
        for kind, depth in resolve(tuner.ops, tuner.depths, trunk.op_kinds, len(trunk.blocks)):
            if (kind, depth) in self._by_site:
                raise PlacementError(f"two tuners stand on {kind} at depth {depth}; give each op site one tuner")
            built = build_tuner(tuner.method, trunk.site(kind, depth), tuner.settings, generator)
            self._by_site[kind, depth] = built
            self._own(kind, depth, built)
            self.first_depth = depth if self.first_depth is None else min(depth, self.first_depth)

    def _own(self, kind: str, depth: int, tuner: nn.Module) -> None:
        """Register a tuner under its stable name, `tuners.KIND.DEPTH`."""
        placed = cast(nn.ModuleDict, self.parts["tuners"])
        if kind not in placed:
            placed[kind] = nn.ModuleDict()
        cast(nn.ModuleDict, placed[kind])[str(depth)] = tuner


def _head(num_features: int, num_classes: int, generator: Generator) -> nn.Linear:
    head = empty_linear(num_features, num_classes)
    nn.init.trunc_normal_(head.weight, std=HEAD_STD, generator=generator)
    nn.init.zeros_(head.bias)
    return head


def _optimiser(parameters: Sequence[nn.Parameter], config: TrainConfig) -> torch.optim.AdamW:
    """AdamW; 1-D parameters (biases, scales) take no weight decay."""
    groups = [
        {"params": [p for p in parameters if p.ndim > 1], "weight_decay": config.weight_decay},
        {"params": [p for p in parameters if p.ndim <= 1], "weight_decay": 0.0},
    ]
    return torch.optim.AdamW([group for group in groups if group["params"]], lr=config.lr, fused=True)
