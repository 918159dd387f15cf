"""Search spaces: what is sampled, and what bad input says."""

import random
from pathlib import Path
from typing import Any, get_args

import hypothesis.strategies as st
import pytest
import yaml
from hypothesis import given, settings

from search_spaces import loader
from search_spaces.domains import Interval, draw, find_domains, parse_domain, variants
from search_spaces.loader import check_space, load_space
from search_spaces.published import DATASETS
from search_spaces.space import Facts, Known, SearchSpace
from utuning.configs import TrialConfig
from utuning.errors import ConfigError, SpaceError

FACTS = Facts(data_fingerprint="d", num_classes=5, backbone_fingerprint="b")
SPACES = sorted(loader.HERE.glob("*.yaml"))
TIERS = ("paper", "small", "smoke")


def raw(**changes: Any) -> dict[str, Any]:
    values = {
        "name": "tiny",
        "dataset": {"name": "tiny", "source": "folder", "path": "images"},
        "backbone": {"name": "vit_tiny_patch16_224", "weights": "none"},
        "train": {"lr": {"loguniform": [1e-3, 1e-2]}, "epochs": 2},
        "tuners": [
            {"method": "p_adapter", "ops": {"choice": [["attn"], ["mlp"]]}, "bottleneck_dim": {"choice": [2, 4]}}
        ],
        "baselines": [{"tuners": []}, {"tuners": [{"method": "full"}], "train": {"lr": 1e-4}}],
        "budget": {"num_trials": 3},
    }
    return {**values, **changes}


def test_there_are_spaces() -> None:
    assert len(SPACES) >= 8
    assert {path.stem for path in SPACES} >= set(DATASETS)


@pytest.mark.parametrize("path", SPACES, ids=lambda path: path.stem)
def test_every_space_validates_and_plans_its_trials(path: Path) -> None:
    space = load_space(path.stem)
    assert space.name == path.stem
    trials = space.baseline_trials(FACTS) + space.random_trials(FACTS)
    assert len({trial.trial_id for trial in trials}) == len(trials) >= space.budget.num_trials


@pytest.mark.parametrize("name", DATASETS)
def test_every_tier_of_a_known_set_validates_and_is_smaller(name: str) -> None:
    paper, small, smoke = (load_space(name, tier=tier) for tier in TIERS)
    assert paper == load_space(name)
    assert paper.budget.num_trials > small.budget.num_trials > smoke.budget.num_trials == 2
    assert (small.name, small.model_name) == (paper.name, paper.model_name), "their rows are comparable"
    assert smoke.model_name != paper.model_name, "a smoke test must not take the champion's place"
    assert smoke.backbone.weights == "none"
    epochs = [max(trial.train.epochs for trial in tier.probing_trials(FACTS)) for tier in (paper, small, smoke)]
    assert epochs == sorted(epochs, reverse=True) and len(set(epochs)) == 3


def test_a_tier_comes_before_the_users_own_overrides() -> None:
    assert load_space("cub200", ["budget.num_trials=3"], tier="small").budget.num_trials == 3


@pytest.mark.parametrize(("name", "says"), [("cub200", "did you mean 'small'"), ("demo", "it has none")])
def test_an_unknown_tier_is_named(name: str, says: str) -> None:
    with pytest.raises(SpaceError, match=says):
        load_space(name, tier="smal")


@pytest.mark.parametrize(
    ("tiers", "says"),
    [
        ([1], "name sets of overrides"),
        ({"small": 3}, "name sets of overrides"),
        ({"small": {"train.lr.loguniform": 3}}, "train.lr.loguniform of tier small: no 'loguniform' there"),
        ({"small": {"train.epoch": 3}}, "did you mean 'epochs'"),
    ],
)
def test_tiers_that_cannot_be_used_are_named(tmp_path: Path, tiers: Any, says: str) -> None:
    path = tmp_path / "tiered.yaml"
    path.write_text(yaml.safe_dump(raw(tiers=tiers)))
    with pytest.raises(SpaceError) as error:
        load_space(str(path), tier="small")
    assert says in str(error.value)


def test_sampling_is_deterministic_and_never_doubles() -> None:
    space = check_space(raw(budget={"num_trials": 4}, seeds=[0, 1]), "tiny")
    first, second = space.random_trials(FACTS), space.random_trials(FACTS)
    assert first == second
    assert len({trial.trial_id for trial in first}) == 8
    assert len({trial.config_id for trial in first}) == 4


def test_an_exhausted_space_gives_what_there_is() -> None:
    space = check_space(raw(train={"lr": 1e-3, "epochs": 1}, budget={"num_trials": 50}), "tiny")
    assert len(space.random_trials(FACTS)) == 4


def test_baselines_take_their_own_training_values() -> None:
    linear, full = check_space(raw(), "tiny").baseline_trials(FACTS)
    assert (linear.method, full.method) == ("linear", "full")
    assert (linear.train.lr, full.train.lr) == (1e-3, 1e-4)


@settings(max_examples=50)
@given(st.sampled_from(["uniform", "loguniform", "randint"]), st.integers(1, 50), st.integers(0, 50), st.integers())
def test_samples_stay_inside(kind: str, low: int, width: int, seed: int) -> None:
    domain = parse_domain({kind: [low, low + width]}, "x")
    assert isinstance(domain, Interval)
    value = domain.sample(random.Random(seed))
    assert low - 1e-9 <= value <= low + width + 1e-9
    assert isinstance(value, int) == (kind == "randint")


def test_drawing_replaces_every_domain() -> None:
    template = raw()["tuners"]
    assert draw(template, lambda where, domain: 1) == [{"method": "p_adapter", "ops": ["mlp"], "bottleneck_dim": 4}]


def test_variants_take_every_value_one_change_at_a_time() -> None:
    node = {"a": {"choice": [1, 2, {"b": {"uniform": [0.0, 1.0]}}]}, "c": {"choice": [3, 4]}, "d": [5]}
    assert variants(node) == [
        {"a": 1, "c": 3, "d": [5]},
        {"a": 2, "c": 3, "d": [5]},
        {"a": {"b": 0.0}, "c": 3, "d": [5]},
        {"a": {"b": 1.0}, "c": 3, "d": [5]},
        {"a": 1, "c": 4, "d": [5]},
    ]


NODE = st.recursive(
    st.integers(0, 3),
    lambda child: st.one_of(
        st.lists(child, min_size=1, max_size=3).map(lambda values: {"choice": values}),
        st.dictionaries(st.sampled_from(["a", "b"]), child, max_size=2),
        st.lists(child, max_size=2),
    ),
    max_leaves=8,
)


@given(NODE, st.integers())
def test_domains_of_an_alternative_are_drawn_only_with_it(node: Any, seed: int) -> None:
    rng, met = random.Random(seed), dict[str, Any]()

    def pick(where: str, domain: Any) -> Any:
        assert where not in met, "each domain is decided once"
        met[where] = domain
        return domain.sample(rng)

    drawn = draw(node, pick)
    assert "choice" not in str(drawn)
    assert met.items() <= find_domains(node).items()
    assert all("choice" not in str(variant) for variant in variants(node))


FAMILIES = [
    {"tuners": [{"method": "p_adapter", "ops": ["attn"], "bottleneck_dim": {"choice": [2, 4]}}]},
    {"tuners": [{"method": "vpt_deep", "num_tokens": {"randint": [1, 5]}}], "train": {"lr": {"uniform": [0.1, 0.2]}}},
]


def families() -> dict[str, Any]:
    values = raw(families=FAMILIES, budget={"num_trials": 20})
    return {key: value for key, value in values.items() if key != "tuners"}


def test_families_bring_their_own_settings_and_training_values() -> None:
    space = check_space(families(), "tiny")
    trials = space.random_trials(FACTS)
    assert {trial.method for trial in trials} == {"p_adapter", "vpt_deep"}
    for trial in trials:
        settings = set(trial.tuners[0].settings)
        assert settings == ({"num_tokens"} if trial.method == "vpt_deep" else {"bottleneck_dim"})
        assert (trial.train.lr >= 0.1) == (trial.method == "vpt_deep")
    assert set(space.domains) == {
        "families", "families.0.train.lr", "families.0.tuners.0.bottleneck_dim",
        "families.1.train.lr", "families.1.tuners.0.num_tokens",
    }  # fmt: skip


STRANGER = {"tuners": [{"method": "p_adapter", "ops": ["attn"], "num_tokens": 3}]}


@pytest.mark.parametrize(
    ("changes", "says"),
    [
        ({"tuners": []}, "give one of the two"),
        ({"families": []}, "families: [] is no list"),
        ({"families": [{"tuner": []}]}, "did you mean 'tuners'"),
        ({"families": [STRANGER]}, "num_tokens: unknown key"),
    ],
)
def test_nonsense_families_are_named(changes: dict[str, Any], says: str) -> None:
    with pytest.raises(SpaceError) as error:
        check_space(families() | changes, "tiny")
    assert says in str(error.value)


@settings(max_examples=25)
@given(st.integers(0, 1000), st.integers(0, 3))
def test_a_trial_is_the_same_after_json(sample: int, seed: int) -> None:
    import json

    space = check_space(raw(), "tiny")
    rng = random.Random(sample)
    trial = space.trial(draw(space.template, lambda where, domain: domain.sample(rng)), seed, FACTS)
    again = TrialConfig.from_dict(json.loads(json.dumps(trial.as_dict())))
    assert again == trial
    assert again.trial_id == trial.trial_id


def test_names_read_as_documented() -> None:
    tuners = [{"method": "p_adapter", "ops": ["attn", "mlp"], "bottleneck_dim": 16}]
    space = check_space(raw(train={"lr": 3e-3, "epochs": 1}, tuners=tuners), "tiny")
    assert space.probing_trials(FACTS)[0].name == "attn+mlp@all r16 lr3e-3 seed0"


def test_overrides_change_values_and_fix_domains() -> None:
    space = load_space("grocery", ["train.lr=1e-3", "tuners.0.ops=[attn]", "budget.num_trials=2", "dataset.seed=4"])
    assert "train.lr" not in space.domains
    assert space.template["train"]["lr"] == 1e-3
    assert (space.budget.num_trials, space.dataset.seed) == (2, 4)


@pytest.mark.parametrize(
    ("changes", "says"),
    [
        ({"trian": {}}, "trian: unknown key; did you mean 'train'"),
        ({"budget": {"num_trial": 3}}, "did you mean 'num_trials'"),
        ({"budget": {"num_trials": "many"}}, "budget.num_trials: given 'many'"),
        ({"budget": {"num_trials": 1, "searcher": "grid"}}, "'random' or 'optuna'"),
        ({"train": {"lr": "fast", "epochs": 1}}, "train.lr: given 'fast'"),
        ({"train": {"lr": 1e-3, "epochs": 0}}, "train.epochs: given 0"),
        ({"train": {"lr": 1e-3, "epochs": True}}, "train.epochs: given True"),
        ({"train": {"lr": {"choice": []}, "epochs": 1}}, "choice [] offers nothing"),
        ({"train": {"lr": {"uniform": [2, 1]}, "epochs": 1}}, "is empty"),
        ({"train": {"lr": {"loguniform": [0, 1]}, "epochs": 1}}, "above 0"),
        ({"train": {"lr": 1e-3, "epochs": {"randint": [1.5, 2]}}}, "two whole numbers"),
        ({"train": 3}, "train: 3 is no mapping"),
        ({"views": 0}, "views: given 0"),
        ({"tuners": [{"method": "p_adaptor"}]}, "did you mean 'p_adapter'"),
        ({"tuners": [{"ops": ["attn"]}]}, "names no method"),
        ({"tuners": [{"method": "p_adapter", "ops": ["attn"], "width": 3}]}, "tuners.0.width: unknown key"),
        ({"tuners": [{"method": "p_adapter", "ops": ["attn"], "bottleneck_dim": 0}]}, "greater than or equal to 1"),
        ({"tuners": [{"method": "p_adapter", "ops": ["attn"], "scale": "chanel"}]}, "'channel'"),
        ({"tuners": [{"method": "p_adapter", "ops": "attn"}]}, "tuners.0.ops"),
        ({"backbone": {"weights": "none"}}, "backbone.name: field required"),
        ({"dataset": {"name": "x", "source": "zip"}}, "dataset.source"),
        ({"seeds": []}, "seeds: empty"),
        ({"seeds": [1, 1]}, "seeds: given [1, 1]"),
        ({"protocol": "vtp"}, "'vpt', 'trainval-final' or 'official'"),
        ({"finals": {"seed": [1]}}, "did you mean 'seeds'"),
        ({"finals": {"seeds": [-1]}}, "finals.seeds: given [-1]"),
        ({"dataset": {"name": "x", "source": "folder", "subset": True}}, "dataset.subset: source 'folder'"),
        ({"budget": {"num_trials": 1, "scheduler": "pbt"}, "finals": {"seeds": [0, 1]}}, "no configuration to train"),
        ({"budget": {"num_trials": 1, "scheduler": "pbt"}, "protocol": "trainval-final"}, "no configuration to train"),
    ],
)
def test_bad_values_are_named(changes: dict[str, Any], says: str) -> None:
    with pytest.raises(SpaceError) as error:
        check_space(raw(**changes), "tiny")
    assert says in str(error.value)


@pytest.mark.parametrize(
    ("changes", "seeds"),
    [
        ({"seeds": [4, 5]}, (4, 5)),
        ({"seeds": [4, 5], "protocol": "official"}, (4, 5)),
        ({"seeds": [4], "protocol": "trainval-final"}, (0, 1, 2)),
        ({"seeds": [4], "finals": {"seeds": [7, 8]}}, (7, 8)),
        ({"protocol": "trainval-final", "finals": {"seeds": [18, 45, 25]}}, (18, 45, 25)),
    ],
)
def test_test_is_measured_with_the_seeds_of_the_search_or_with_those_of_the_finals(
    changes: dict[str, Any], seeds: tuple[int, ...]
) -> None:
    space = check_space(raw(**changes), "tiny")
    assert space.final_seeds == seeds
    assert {trial.protocol for trial in space.probing_trials(FACTS)} == {changes.get("protocol", "vpt")}


def test_known_data_sets_are_sources_by_the_names_of_their_readers() -> None:
    from utuning.data.fgvc.table import READERS

    assert get_args(Known) == tuple(READERS)
    space = check_space(raw(dataset={"name": "birds", "source": "cub200", "path": "x.tgz", "subset": True}), "tiny")
    assert space.dataset.subset


def test_all_problems_are_said_at_once() -> None:
    with pytest.raises(SpaceError) as error:
        check_space(raw(trian={}, budget={"num_trials": "x"}, seeds=["a"]), "tiny")
    assert str(error.value).count("\n  - ") == 3


def test_a_missing_section_is_named() -> None:
    values = raw()
    del values["tuners"]
    with pytest.raises(SpaceError, match="tuners: missing"):
        check_space(values, "tiny")


def test_tuners_and_families_replace_each_other() -> None:
    one = load_space("demo", ["tuners=[{method: lora}]"])
    assert set(one.domains) == {"train.lr"}
    assert {trial.method for trial in one.random_trials(FACTS)} == {"lora"}


@pytest.mark.parametrize("override", ["train.lr", "=3", "families.7.train={}", "name.first=x"])
def test_overrides_that_lead_nowhere(override: str) -> None:
    with pytest.raises(ConfigError, match="override"):
        load_space("demo", [override])


def test_unknown_spaces_and_broken_yaml(tmp_path: Path) -> None:
    with pytest.raises(SpaceError, match="did you mean 'demo'"):
        load_space("dmeo")
    broken = tmp_path / "broken.yaml"
    broken.write_text("name: [")
    with pytest.raises(SpaceError, match="cannot be read as YAML"):
        load_space(str(broken))
    broken.write_text(yaml.safe_dump([1, 2]))
    with pytest.raises(SpaceError, match="is no mapping"):
        load_space(str(broken))


def test_spaces_are_values() -> None:
    assert isinstance(load_space("demo"), SearchSpace)
    assert load_space("demo") == load_space("demo")
