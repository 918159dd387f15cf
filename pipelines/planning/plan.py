"""What is known before a cluster is asked for anything: data, backbone, and trials that can all be built."""

from dataclasses import asdict, dataclass
from functools import cached_property
from itertools import chain

from pipelines.data.datasets import prepared
from pipelines.planning.proposals import Proposal, WarmStart
from pipelines.workspace import Workspace
from search_spaces.domains import Picks, replay
from search_spaces.space import Facts, SearchSpace
from utuning.backbone import Backbone
from utuning.configs import TrialConfig, digest
from utuning.data.faults import Progress
from utuning.data.shards import DatasetInfo
from utuning.data.shrinking import enlarged_note
from utuning.data.space import require_space
from utuning.data.val import check_val, part_notes
from utuning.member import Member

# Bundles, checkpoints and Ray's own state of a small search.
MIN_FREE_BYTES = 500_000_000


@dataclass(frozen=True, kw_only=True)
class Prepared:
    """A checked space with its data and its backbone."""

    space: SearchSpace
    dataset: DatasetInfo
    backbone: Backbone
    facts: Facts
    notes: tuple[str, ...] = ()
    """What makes its numbers incomparable with others of the same protocol."""
    warm: WarmStart | None = None
    """What earlier searches propose; None if nobody asked."""

    @property
    def proposals(self) -> tuple[Proposal, ...]:
        """What is tried right after the baselines."""
        return () if self.warm is None else self.warm.proposals

    @property
    def picked(self) -> list[Picks]:
        """The proposals as the space draws them."""
        return [proposal.picks for proposal in self.proposals]

    @cached_property
    def proposed(self) -> list[list[TrialConfig]]:
        """The trials of each proposal, one for each seed."""
        return [self.space.seeded(replay(picks), self.facts) for picks in self.picked]

    @property
    def reasons(self) -> dict[str, str]:
        """Why a configuration was proposed, by its id."""
        pairs = zip(self.proposed, self.proposals, strict=True)
        return {trials[0].config_id: proposal.reason for trials, proposal in pairs}


def prepare_search(space: SearchSpace, workspace: Workspace, progress: Progress | None = None) -> Prepared:
    """Prepare the data, load the backbone, and check that every configuration of the space can be built.

    Raises:
        DataError, BackboneError, PlacementError, ConfigError: what cannot be used, before any work starts.
    """
    require_space(workspace.root, MIN_FREE_BYTES)
    dataset = prepared(space.dataset, workspace, progress, protocol=space.protocol)
    notes = (*check_val(dataset, space.protocol), *part_notes(dataset))
    backbone = Backbone.from_config(space.backbone)
    notes = (*notes, *enlarged_note(dataset.shorter_side, backbone.preprocessing.resize))
    facts = Facts(
        data_fingerprint=dataset.fingerprint,
        num_classes=len(dataset.class_names),
        backbone_fingerprint=backbone.fingerprint,
    )
    ready = Prepared(space=space, dataset=dataset, backbone=backbone, facts=facts, notes=notes)
    for trial in probing_trials(ready):
        Member.from_trial(ready.backbone, trial)
    return ready


def probing_trials(ready: Prepared) -> list[TrialConfig]:
    """The baselines, and trials that between them take every listed value and every end of an interval."""
    trials = ready.space.baseline_trials(ready.facts) + ready.space.probing_trials(ready.facts)
    return list({trial.config_id: trial for trial in trials}.values())


def planned_trials(ready: Prepared) -> list[TrialConfig]:
    """The trials known before the search starts: all of a random one, baselines and proposals of an adaptive one."""
    if ready.space.budget.searcher != "optuna":
        return expected_trials(ready)
    return ready.space.baseline_trials(ready.facts) + list(chain(*ready.proposed))


def expected_trials(ready: Prepared) -> list[TrialConfig]:
    """As many trials as a search has; random ones stand for those that an adaptive one will choose."""
    return ready.space.baseline_trials(ready.facts) + ready.space.random_trials(ready.facts, ready.picked)


def expected_finals(ready: Prepared) -> list[TrialConfig]:
    """What the finals train beyond the search: the first random trial stands for the chosen configuration."""
    space, known = ready.space, {trial.trial_id for trial in expected_trials(ready)}
    chosen = space.random_trials(ready.facts)[:1] + (
        space.baseline_trials(ready.facts) if space.finals.baselines else []
    )
    again = {trial.trial_id: trial for trial in space.as_finals(chosen)}
    return [trial for trial in again.values() if trial.trial_id not in known]


def space_digest(ready: Prepared) -> str:
    """The same for searches of the same space on the same data and backbone."""
    return digest({"space": asdict(ready.space), "facts": asdict(ready.facts)})
