"""The law: K members together have each step's losses equal to each member alone."""

import hypothesis.strategies as st
import torch
from hypothesis import given, settings

from tests.tools import adapter, batch, tiny_backbone, train
from utuning.cohort import Cohort
from utuning.configs import TrainConfig, TunerConfig
from utuning.member import Member

BACKBONE = tiny_backbone()
NUM_STEPS = 3

DEPTHS = st.one_of(
    st.sampled_from(["all", "first", "last:2", "last"]),
    st.sets(st.integers(0, 3), min_size=1).map(lambda depths: tuple(sorted(depths))),
)
TUNER = st.builds(
    lambda ops, depths, width, scale, init: adapter(
        *sorted(ops), depths=depths, bottleneck_dim=width, scale=scale, init=init
    ),
    st.sets(st.sampled_from(["attn", "mlp", "block"]), min_size=1),
    DEPTHS,
    st.integers(1, 6),
    st.sampled_from(["none", "scalar", "channel", "gate"]),
    st.sampled_from(["xavier", "zero_up"]),
)
CONFIG = st.builds(
    lambda lr, decay, smoothing, drop, seed: train(
        lr=lr, weight_decay=decay, label_smoothing=smoothing, drop_path=drop, seed=seed
    ),
    st.sampled_from([1e-3, 1e-2]),
    st.sampled_from([0.0, 0.1]),
    st.sampled_from([0.0, 0.1]),
    st.sampled_from([0.0, 0.3]),
    st.integers(0, 3),
)
FULL = (TunerConfig(method="full"),)
MEMBER = st.tuples(st.one_of(st.just(()), st.just(FULL), TUNER.map(lambda tuner: (tuner,))), CONFIG)
Spec = tuple[tuple[TunerConfig, ...], TrainConfig]


def build(spec: Spec) -> Member:
    tuners, config = spec
    return Member(BACKBONE, num_classes=5, config=config, tuners=tuners, steps_per_epoch=2)


def losses(specs: list[Spec]) -> torch.Tensor:
    cohort = Cohort(BACKBONE, [build(spec) for spec in specs])
    return torch.stack([cohort.step(batch(seed=step, padding=step)) for step in range(NUM_STEPS)], dim=1)


@settings(max_examples=25, deadline=None)
@given(st.lists(MEMBER, min_size=2, max_size=5))
def test_members_together_lose_what_each_loses_alone(specs: list[Spec]) -> None:
    together = losses(specs)
    alone = torch.cat([losses([spec]) for spec in specs])
    torch.testing.assert_close(together, alone, rtol=0, atol=1e-5)


@settings(max_examples=10, deadline=None)
@given(st.lists(MEMBER, min_size=1, max_size=3), st.integers(0, 2))
def test_a_member_that_diverges_disturbs_no_other(specs: list[Spec], place: int) -> None:
    broken = (specs[0][0], train(lr=1e38))
    mixed = [*specs]
    mixed.insert(min(place, len(specs)), broken)
    with_broken = losses(mixed)
    others = [k for k in range(len(mixed)) if mixed[k] is not broken]
    torch.testing.assert_close(with_broken[others], losses(specs), rtol=0, atol=1e-5)
    assert not torch.isfinite(with_broken[mixed.index(broken)]).all()


def test_the_backbone_is_unchanged_by_training() -> None:
    before = {name: value.clone() for name, value in BACKBONE.trunk.model.state_dict().items()}
    own = [((TunerConfig(method=method),), train()) for method in ("full", "partial", "bitfit")]
    losses([((adapter("attn", "mlp", "block"),), train()), ((), train()), *own])
    after = BACKBONE.trunk.model.state_dict()
    assert all(torch.equal(before[name], after[name]) for name in before)
    assert all(p.grad is None for p in BACKBONE.trunk.model.parameters())
