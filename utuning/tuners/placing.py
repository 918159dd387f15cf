"""From a trial's tuner configurations to built tuners at their sites, each under a stable name."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

from torch import Generator, nn

from utuning.architectures import Trunk
from utuning.configs import Depths, TunerConfig
from utuning.errors import PlacementError
from utuning.placement import resolve, resolve_depths
from utuning.tuners import settings_of, target_of, tuner_row, with_defaults
from utuning.tuners.roles import BuildsAtSite, BuildsHead, BuildsSide, SelectsWeights
from utuning.tuners.rows import Role, TunerRow

AT_OPS: tuple[Role, ...] = ("beside", "instead", "inside")
Address = tuple[str, int]


@dataclass(frozen=True, kw_only=True)
class Placed:
    """A built tuner: its role, its site's address (none for a side network), and the name its tensors have."""

    role: Role
    where: Address | None
    name: tuple[str, ...]
    tuner: nn.Module


def expand(tuners: Sequence[TunerConfig]) -> list[TunerConfig]:
    """Write composed methods out as their parts."""
    return [part for tuner in tuners for part in _parts(tuner)]


def build_placed(trunk: Trunk, tuners: Sequence[TunerConfig], generator: Generator) -> list[Placed]:
    """Build everything of expanded configurations that stands at a site or beside the backbone.

    Raises:
        PlacementError: a placement that matches no site, a site that the method cannot use, or two on one site.
        ConfigError: a setting that a method has not.
    """
    placed = [each for tuner in tuners for each in _build(trunk, tuner, generator)]
    taken: dict[tuple[Any, ...], Placed] = {}
    for each in placed:
        # What replaces an op leaves nothing to reach into.
        place = ("inside" if each.role == "instead" else each.role, each.where)
        if place in taken:
            raise PlacementError(
                f"{taken[place].name[0]} and {each.name[0]} both stand {each.role} "
                f"{'the backbone' if each.where is None else f'{each.where[0]} at depth {each.where[1]}'}; "
                "give each op site one tuner of a role"
            )
        taken[place] = each
    _refuse_prompts_beside(placed)
    return placed


def selected_weights(trunk: Trunk, tuners: Sequence[TunerConfig]) -> frozenset[str]:
    """The backbone's own parameters that the configurations train, by name.

    Raises:
        PlacementError: a rule that takes no parameter of this backbone, or a placement for a rule that has none.
    """
    selected: frozenset[str] = frozenset()
    for tuner in tuners:
        row = tuner_row(tuner.method)
        if row.role == "weights":
            _refuse_ops(row, tuner)
            select: SelectsWeights = target_of(row)
            found = select(trunk, **with_defaults(row.name, tuner.settings))
            if not found:
                raise PlacementError(f"{row.name} finds no parameter to train in this backbone; choose another method")
            selected |= found
    return selected


def build_head(
    tuners: Sequence[TunerConfig], num_features: int, num_classes: int, generator: Generator
) -> nn.Module | None:
    """The head that the configurations ask for, if they ask for one.

    Raises:
        PlacementError: two heads, or a placement for one.
    """
    heads = [tuner for tuner in tuners if tuner_row(tuner.method).role == "head"]
    if len(heads) > 1:
        raise PlacementError(f"two heads: {heads[0].method} and {heads[1].method}; a member has one")
    for tuner in heads:
        row = tuner_row(tuner.method)
        _refuse_ops(row, tuner)
        build: BuildsHead = target_of(row)
        return build(num_features, num_classes, generator=generator, **with_defaults(row.name, tuner.settings))
    return None


def _parts(tuner: TunerConfig) -> Iterator[TunerConfig]:
    row = tuner_row(tuner.method)
    if not row.parts:
        yield tuner
        return
    _refuse_ops(row, tuner)
    given = with_defaults(row.name, tuner.settings)
    for part in row.parts:
        known = {key: value for key, value in given.items() if key in settings_of(part.method)}
        yield TunerConfig(method=part.method, ops=part.ops, depths=tuner.depths, settings={**part.settings, **known})


def _build(trunk: Trunk, tuner: TunerConfig, generator: Generator) -> Iterator[Placed]:
    row = tuner_row(tuner.method)
    settings = with_defaults(row.name, tuner.settings)
    if row.role == "side":
        _refuse_ops(row, tuner)
        depths = resolve_depths(_depths(row, tuner), len(trunk.blocks))
        build: BuildsSide = target_of(row)
        built = build(trunk, depths, generator=generator, **settings)
        yield Placed(role="side", where=None, name=(row.name,), tuner=built)
    elif row.role in (*AT_OPS, "tokens"):
        for kind, depth in resolve(_ops(row, tuner, trunk), _depths(row, tuner), trunk.where):
            build_at: BuildsAtSite = target_of(row)
            built = build_at(trunk.site(kind, depth), generator=generator, **settings)
            yield Placed(role=row.role, where=(kind, depth), name=(row.name, kind, str(depth)), tuner=built)


def _refuse_prompts_beside(placed: Sequence[Placed]) -> None:
    """A side network puts states together, and a prompt gives them other numbers of tokens."""
    names = {each.role: each.name[0] for each in placed}
    if "side" in names and "tokens" in names:
        raise PlacementError(
            f"{names['side']} puts the states of all blocks together, and {names['tokens']} adds tokens to some; "
            "give a trial one of the two"
        )


def _ops(row: TunerRow, tuner: TunerConfig, trunk: Trunk) -> tuple[str, ...]:
    """The op kinds that are given, else the row's that this backbone has."""
    if row.role == "tokens":
        _refuse_ops(row, tuner)
        return ("block",)
    for kind in tuner.ops:
        if kind not in row.ops:
            raise PlacementError(f"{row.name} cannot stand at op kind {kind!r}; it can at {', '.join(row.ops)}")
    have = {kind for kind, _ in trunk.where}
    default = tuple(kind for kind in row.default_ops if kind in have)
    if not tuner.ops and row.default_ops and not default:
        raise PlacementError(
            f"{row.name} stands at {', '.join(row.default_ops)}, and this backbone has none of them; "
            f"its op kinds are {', '.join(sorted(have))}"
        )
    return tuner.ops or default


def _depths(row: TunerRow, tuner: TunerConfig) -> Depths:
    return row.default_depths if tuner.depths is None else tuner.depths


def _refuse_ops(row: TunerRow, tuner: TunerConfig) -> None:
    if tuner.ops:
        raise PlacementError(f"{row.name} stands at no op kind, but ops {list(tuner.ops)} are given; leave them out")
