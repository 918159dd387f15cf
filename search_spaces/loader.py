"""Reads a space from YAML, with `key=value` overrides, and checks all of it before any work starts."""

from collections.abc import Mapping, Sequence
from dataclasses import fields
from pathlib import Path
from typing import Any, get_args

from search_spaces.checking import Problems
from search_spaces.domains import is_domain, variants
from search_spaces.reading import parse_yaml, read_yaml
from search_spaces.space import TUNER_KEYS, Baseline, Budget, DatasetSpec, Finals, Known, SearchSpace
from search_spaces.tiers import changes_of, take_tiers
from utuning.configs import BackboneConfig, Depths, TrainConfig
from utuning.data.protocols import find_protocol
from utuning.data.shrinking import check_shorter_side
from utuning.errors import ConfigError, DataError, SpaceError, nearest
from utuning.placement import DEPTH_FORMS
from utuning.tuners import TUNERS

HERE = Path(__file__).parent
TEMPLATE = ("train", "tuners", "families")
SECTIONS = (*(f.name for f in fields(SearchSpace) if f.name != "template"), "train", "tuners", "families")
REQUIRED = ("name", "dataset", "backbone", "train", "budget")


def load_space(name: str, overrides: Sequence[str] = (), tier: str | None = None) -> SearchSpace:
    """Load a space by name or path; apply a tier, then overrides such as `train.epochs=2` or `tuners.0.ops=[attn]`.

    Raises:
        SpaceError: no such space or tier, broken YAML, or values that cannot be used; all problems at once.
    """
    path = find_space(name)
    raw = read_yaml(path)
    tiers = take_tiers(raw, path.name)
    for key, value in (changes_of(tiers, tier, path.name) if tier else {}).items():
        _set(raw, key, value, f"{key} of tier {tier}")
    for override in overrides:
        _apply(raw, override)
    return check_space(raw, str(path.name))


def load_fixed_space(name: str, overrides: Sequence[str] = (), tier: str | None = None) -> SearchSpace:
    """The same for a space of which one configuration is trained, without baselines.

    Raises:
        SpaceError: as `load_space`, or values that are still searched.
    """
    fixed = load_space(name, [*overrides, "budget.num_trials=1", "baselines=[]", "budget.searcher=random"], tier)
    if fixed.domains:
        raise SpaceError(
            f"still searched: {', '.join(fixed.domains)}; fix each by an override such as {next(iter(fixed.domains))}=…"
        )
    return fixed


def find_space(name: str) -> Path:
    """Find the YAML of a space: a file, or the name of one that comes with the project."""
    path = Path(name).expanduser()
    if path.suffix in (".yaml", ".yml") and path.is_file():
        return path
    known = {file.stem: file for file in HERE.glob("*.yaml")}
    if name in known:
        return known[name]
    raise SpaceError(
        f"there is no search space {name!r}; {nearest(Path(name).stem, known)}; or give the path of a YAML file"
    )


def check_space(raw: Any, title: str) -> SearchSpace:
    """Turn the YAML's plain values into a checked space."""
    problems = Problems()
    values = problems.mapping(raw, "", list(SECTIONS)) or {}
    for key in REQUIRED:
        if key not in values:
            problems.add(f"{key}: missing; every space needs it")
    if ("tuners" in values) == ("families" in values):
        problems.add("tuners: missing; every space needs it, or families, a list of alternatives; give one of the two")
    if problems.found and any(key not in values for key in (*REQUIRED, "tuners")):
        problems.check(title)
    budget = problems.build(Budget, values["budget"], "budget")
    _check_numbers(problems, budget)
    parts: dict[str, Any] = {
        "dataset": problems.build(DatasetSpec, values["dataset"], "dataset"),
        "backbone": problems.build(BackboneConfig, values["backbone"], "backbone"),
        "budget": budget,
        "finals": problems.build(Finals, values.get("finals", {}), "finals"),
        "baselines": tuple(_baseline(problems, b, f"baselines.{i}") for i, b in enumerate(values.get("baselines", ()))),
        "template": _template(problems, values),
    }
    simple = {key: values[key] for key in values if key not in parts and key not in TEMPLATE}
    for key, value in simple.items():
        annotation = SearchSpace.__annotations__[key]
        simple[key] = problems.value(annotation, value, key)
    if simple.get("seeds") == ():
        problems.add("seeds: empty; list one seed or more")
    if isinstance(views := simple.get("views"), int) and views < 1:
        problems.add(f"views: given {views}; online, or so many random crops of each image, at least 1")
    problems.check(title)
    space = SearchSpace(**{"hypothesis": "", **simple, **parts})
    _check_finals(problems, space)
    problems.check(title)
    return space


def _template(problems: Problems, values: Mapping[str, Any]) -> Any:
    """Put training and tuners together, and check every variant of them.

    `families` are alternatives: each has tuners, and may have training values that go before the space's own.
    """
    template: Any = {key: values[key] for key in ("train", "tuners") if key in values}
    if "families" in values:
        template = {"families": {"choice": _families(problems, values["families"], values["train"])}}
    try:
        for variant in variants(template):
            _check_filled(problems, variant.get("families", variant))
    except SpaceError as error:
        problems.add(str(error))
    return template


def _families(problems: Problems, families: Any, train: Any) -> list[dict[str, Any]]:
    if not isinstance(families, list) or not families:
        problems.add(f"families: {families!r} is no list; list one family or more, each with tuners")
        problems.check("families")
    checked = [
        problems.mapping(family, f"families.{place}", ["tuners", "train"]) for place, family in enumerate(families)
    ]
    return [
        {"train": {**(train or {}), **family.get("train", {})}, "tuners": family.get("tuners")}
        for family in checked
        if family is not None
    ]


def _check_filled(problems: Problems, filled: Mapping[str, Any]) -> None:
    train = problems.build(TrainConfig, filled["train"], "train")
    if train is not None:
        _check_train(problems, train)
    if not isinstance(filled["tuners"], list):
        problems.add(
            f"tuners: {filled['tuners']!r} is no list; list one tuner or more, each with method, ops and depths"
        )
        return
    for place, tuner in enumerate(filled["tuners"]):
        _check_tuner(problems, tuner, f"tuners.{place}")


def _baseline(problems: Problems, values: Any, where: str) -> Baseline | None:
    baseline: Baseline | None = problems.build(Baseline, values, where)
    if baseline is not None:
        for place, tuner in enumerate(baseline.tuners):
            _check_tuner(problems, tuner, f"{where}.tuners.{place}")
        problems.mapping(baseline.train, f"{where}.train", [f.name for f in fields(TrainConfig)])
    return baseline


def _check_tuner(problems: Problems, tuner: Any, where: str) -> None:
    if not isinstance(tuner, Mapping) or "method" not in tuner:
        problems.add(f"{where}: {tuner!r} names no method; allowed: {', '.join(TUNERS)}")
    elif tuner["method"] not in TUNERS:
        problems.add(
            f"{where}.method: unknown tuning method {tuner['method']!r}; {nearest(str(tuner['method']), TUNERS)}"
        )
    else:
        problems.settings(tuner["method"], {k: v for k, v in tuner.items() if k not in TUNER_KEYS}, where)
        problems.value(tuple[str, ...], tuner.get("ops", []), f"{where}.ops")
        if problems.value(Depths, tuner.get("depths", "all"), f"{where}.depths") is None:
            problems.add(f"{where}.depths: use {DEPTH_FORMS}")


def _check_train(problems: Problems, train: TrainConfig) -> None:
    limits = {
        "lr": train.lr > 0, "epochs": train.epochs >= 1, "batch_size": train.batch_size >= 1,
        "weight_decay": train.weight_decay >= 0, "warmup_epochs": train.warmup_epochs >= 0,
        "label_smoothing": 0 <= train.label_smoothing < 1, "drop_path": 0 <= train.drop_path < 1,
    }  # fmt: skip
    for key, fine in limits.items():
        if not fine:
            problems.add(f"train.{key}: given {getattr(train, key)!r}; outside what makes sense for it")


def _check_numbers(problems: Problems, budget: Budget | None) -> None:
    if budget is not None and (budget.num_trials < 0 or budget.grace_epochs < 1 or budget.reduction_factor < 2):
        problems.add("budget: num_trials is 0 or more, grace_epochs 1 or more, reduction_factor 2 or more")
    if budget is not None and (budget.scheduler, budget.searcher) == ("pbt", "optuna"):
        problems.add("budget: pbt changes trials itself and takes no searcher; use searcher: random")


def _check_finals(problems: Problems, space: SearchSpace) -> None:
    """Check what only the parts together say."""
    for name, seeds in (("seeds", space.seeds), ("finals.seeds", space.finals.seeds)):
        if len(set(seeds)) < len(seeds) or any(seed < 0 for seed in seeds):
            problems.add(f"{name}: given {list(seeds)}; whole numbers from 0 on, each once")
    again = find_protocol(space.protocol).trains_again or not set(space.final_seeds) <= set(space.seeds)
    if space.budget.scheduler == "pbt" and again:
        problems.add(
            "finals: pbt changes settings while it trains, so there is no configuration to train again; use protocol: "
            "vpt with the seeds of the search, or another scheduler"
        )
    if space.dataset.subset and space.dataset.source not in get_args(Known):
        known = ", ".join(get_args(Known))
        problems.add(f"dataset.subset: source {space.dataset.source!r} has no known size; it is for {known}")
    _check_shorter_side(problems, space.dataset)


def _check_shorter_side(problems: Problems, dataset: DatasetSpec) -> None:
    try:
        check_shorter_side(dataset.shorter_side)
    except DataError as error:
        problems.add(f"dataset.shorter_side: {error}")
    if dataset.source == "drawn" and dataset.shorter_side is not None:
        problems.add("dataset.shorter_side: source 'drawn' is stored as it is drawn; leave it out")


def _apply(raw: Any, override: str) -> None:
    """Set one dotted key of the raw YAML; whether the key makes sense is checked with all the rest."""
    path, equals, text = override.partition("=")
    if not equals or not path:
        raise ConfigError(f"override {override!r} is not of the form key=value, such as train.epochs=2")
    _set(raw, path, parse_yaml(text), f"override {override!r}")


def _set(raw: Any, path: str, value: Any, what: str) -> None:
    """Set a dotted key; `what` is how messages call the change."""
    if path in ("tuners", "families"):
        raw.pop({"tuners": "families", "families": "tuners"}[path], None)  # each says what to try
    node, keys = raw, path.split(".")
    for key in keys[:-1]:
        node = _step(node, key, what)
    _step(node, keys[-1], what)
    node[int(keys[-1]) if isinstance(node, list) else keys[-1]] = value


def _step(node: Any, key: str, what: str) -> Any:
    if isinstance(node, list) and key.isdecimal() and int(key) < len(node):
        return node[int(key)]
    if isinstance(node, dict) and not is_domain(node):
        return node.setdefault(key, {})
    inside = f"list items 0 to {len(node) - 1}" if isinstance(node, list) else "nothing inside it"
    raise SpaceError(f"{what}: no {key!r} there; it has {inside}")
