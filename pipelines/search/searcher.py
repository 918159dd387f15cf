"""Who suggests trials: the baselines, then proposals, then random configurations or Optuna's, never one twice."""

from collections.abc import Iterable, Mapping, Sequence
from functools import partial
from typing import Any

from ray.tune.search import Searcher

from pipelines.cohorts.roster import ERROR
from search_spaces.domains import Choice, Domain, Interval, Picks
from search_spaces.space import Facts, SearchSpace
from utuning.configs import TrialConfig

ASKS_PER_CONFIGURATION = 50


class SpaceSearcher(Searcher):  # type: ignore[misc]
    """Suggests the trials of a space to Tune.

    Trials that are done (of a search that goes on after it was cut off) are not suggested again, but an adaptive
    searcher learns from them.

    Args:
        space: what to search.
        facts: fingerprints and classes.
        done: final metric of each trial that is already finished, by trial id.
        first: picks of the configurations that are tried right after the baselines.
    """

    def __init__(
        self, space: SearchSpace, facts: Facts, done: Mapping[str, float], first: Sequence[Picks] = ()
    ) -> None:
        super().__init__(metric=space.metric, mode="max" if space.maximise else "min")
        self._space, self._facts, self._done = space, facts, dict(done)
        self._by_tune_id: dict[str, TrialConfig] = {}
        self._queue = self._not_done(space.baseline_trials(facts))
        self._adaptive = None if space.budget.searcher == "random" else _Optuna(space, facts, first)
        if self._adaptive is None:
            self._queue += self._not_done(space.random_trials(facts, first))

    def suggest(self, trial_id: str) -> Any:
        """Give Tune the next trial's configuration, or say that there are no more."""
        if not self._queue and self._adaptive is not None:
            self._queue += self._propose(self._adaptive)
        if not self._queue:
            return Searcher.FINISHED
        trial = self._queue.pop(0)
        self._by_tune_id[trial_id] = trial
        return tune_config(trial)

    def all(self) -> list[dict[str, Any]]:
        """The cases of all that a random search has left, for a scheduler that takes no searcher."""
        return [tune_config(trial)["case"] for trial in self._queue]

    def on_trial_complete(self, trial_id: str, result: dict[str, Any] | None = None, error: bool = False) -> None:
        """Learn a trial's final metric."""
        trial = self._by_tune_id.pop(trial_id)
        if self._adaptive is not None:
            known = {} if error or result is None or ERROR in result else result
            self._adaptive.learn(trial, known.get(self.metric))

    def save(self, checkpoint_path: str) -> None:
        """Nothing to save: a search that goes on replays what its tracked runs say."""

    def restore(self, checkpoint_path: str) -> None:
        """Nothing to restore, see `save`."""

    def _propose(self, adaptive: "_Optuna") -> list[TrialConfig]:
        """Ask for configurations until one has a trial that is not done; done ones are learned at once."""
        while proposed := adaptive.ask():
            for trial in proposed:
                if trial.trial_id in self._done:
                    adaptive.learn(trial, self._done[trial.trial_id])
            if fresh := self._not_done(proposed):
                return fresh
        return []

    def _not_done(self, trials: Iterable[TrialConfig]) -> list[TrialConfig]:
        return [trial for trial in trials if trial.trial_id not in self._done]


def tune_config(trial: TrialConfig) -> dict[str, Any]:
    """A trial as Tune sees it: one value, `case`. Schedulers may change its values, so its id and name stand beside."""
    return {"case": {"trial": trial.as_dict(), "id": trial.trial_id, "name": trial.name}}


class _Optuna:
    """Optuna's tree-structured Parzen estimator over a space's domains; a configuration's value is its seeds' mean."""

    def __init__(self, space: SearchSpace, facts: Facts, first: Sequence[Picks]) -> None:
        import optuna

        optuna.logging.set_verbosity(optuna.logging.WARNING)
        sampler = optuna.samplers.TPESampler(seed=space.budget.seed)
        self._study = optuna.create_study(direction="maximize" if space.maximise else "minimize", sampler=sampler)
        for picks in first:
            self._study.enqueue_trial(dict(picks))
        self._failed = optuna.trial.TrialState.FAIL
        self._space, self._facts = space, facts
        self._asked: dict[str, Any] = {}
        self._results: dict[str, list[float | None]] = {}

    def ask(self) -> list[TrialConfig]:
        """One configuration that is new, for every seed; none when the budget is spent or the space is exhausted."""
        if len(self._asked) >= self._space.budget.num_trials:
            return []
        for _ in range(ASKS_PER_CONFIGURATION):
            trial = self._study.ask()
            seeded = self._space.seeded(partial(_suggest, trial), self._facts)
            if seeded[0].config_id not in self._asked:
                self._asked[seeded[0].config_id] = trial
                return seeded
            self._study.tell(trial, state=self._failed)
        return []

    def learn(self, trial: TrialConfig, value: float | None) -> None:
        """Tell the study once all seeds of a configuration are known; one that failed gives it no value."""
        if trial.config_id not in self._asked:
            return
        results = self._results.setdefault(trial.config_id, [])
        results.append(value)
        if len(results) < len(self._space.seeds):
            return
        known = [result for result in results if result is not None]
        asked = self._asked[trial.config_id]
        if known:
            self._study.tell(asked, sum(known) / len(known))
        else:
            self._study.tell(asked, state=self._failed)


def _suggest(trial: Any, path: str, domain: Domain) -> Any:
    """Ask for one value, a choice's by its place."""
    if isinstance(domain, Choice):
        return trial.suggest_categorical(path, list(range(len(domain.values))))
    return _number(trial, path, domain)


def _number(trial: Any, path: str, domain: Interval) -> float:
    if domain.kind == "randint":
        return int(trial.suggest_int(path, int(domain.low), int(domain.high)))
    return float(trial.suggest_float(path, domain.low, domain.high, log=domain.kind == "loguniform"))
