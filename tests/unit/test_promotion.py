"""The promotion rule: best val, ties to the smaller one, no comparison across data or protocols."""

import math
from dataclasses import fields, replace

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from pipelines.registry.promotion import Candidate, best, decide
from utuning.errors import TrackingError

BASE = Candidate(
    run_id="r0",
    config_id="c0",
    val=0.7,
    trainable_params=100,
    protocol="p",
    data_fingerprint="d",
    backbone_fingerprint="b",
)
CANDIDATES = st.builds(
    lambda run, config, val, params: replace(BASE, run_id=run, config_id=config, val=val, trainable_params=params),
    st.sampled_from(["r1", "r2", "r3"]),
    st.sampled_from(["c1", "c2", "c3"]),
    st.sampled_from([0.1, 0.5, 0.9, math.nan]),
    st.integers(1, 3),
)


@settings(deadline=None)
@given(st.lists(CANDIDATES, min_size=1).filter(lambda them: any(math.isfinite(it.val) for it in them)))
def test_best_has_the_highest_val_then_the_fewest_parameters_and_no_order_matters(candidates: list[Candidate]) -> None:
    chosen = best(candidates)
    measured = [it for it in candidates if math.isfinite(it.val)]
    assert chosen.val == max(it.val for it in measured)
    assert chosen.trainable_params == min(it.trainable_params for it in measured if it.val == chosen.val)
    assert best(candidates[::-1]).config_id == chosen.config_id


def test_best_of_nothing_measured_is_an_error_in_words() -> None:
    with pytest.raises(TrackingError, match="no trial has a val accuracy"):
        best([replace(BASE, val=math.nan)])


def test_the_first_champion() -> None:
    assert decide(BASE, None).promote


@pytest.mark.parametrize(("val", "promoted"), [(0.71, True), (0.7, False), (0.69, False)])
def test_only_a_better_val_replaces_a_champion(val: float, promoted: bool) -> None:
    decision = decide(replace(BASE, run_id="r1", val=val), BASE)
    assert decision.promote is promoted
    assert f"{val:.2%}" in decision.reason and "70.00%" in decision.reason


@pytest.mark.parametrize("field", ["protocol", "data_fingerprint"])
def test_what_is_not_comparable_is_promoted_and_the_reason_says_so(field: str) -> None:
    decision = decide(replace(BASE, run_id="r1", val=0.1, **{field: "new"}), BASE)
    assert decision.promote
    assert "not comparable" in decision.reason and "'new'" in decision.reason


def test_another_backbone_is_comparable() -> None:
    assert not decide(replace(BASE, run_id="r1", val=0.1, backbone_fingerprint="other"), BASE).promote


def test_the_champion_does_not_replace_itself() -> None:
    assert "already" in decide(replace(BASE, val=0.9), BASE).reason


def test_candidates_go_through_tags() -> None:
    assert Candidate.from_tags("r0", BASE.as_tags()) == BASE


def test_a_version_registered_by_hand_is_comparable_to_nothing() -> None:
    assert "not comparable" in decide(BASE, Candidate.from_tags("r9", {})).reason


def test_test_accuracy_has_no_way_in() -> None:
    assert not [field.name for field in fields(Candidate) if "test" in field.name]
