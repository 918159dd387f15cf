"""Trials of Tune whose members learn without a network: seats, rounds and saved epochs are real. No torch here."""

import asyncio
import json
import sys
import tempfile
from collections.abc import Mapping
from dataclasses import asdict
from pathlib import Path
from typing import Any

import ray

from pipelines.cohorts.progress import PATH, ProgressStore
from pipelines.cohorts.roster import Joining, Report, Roster
from pipelines.cohorts.trial import Trial

STATE, TRAINED = "state.json", "trained"


class LearningService:
    """Answers as the cohort service does, for one cohort: each epoch adds a member's learning rate to its accuracy."""

    def __init__(self, members: str) -> None:
        self.roster = Roster(patience_s=2.0, settle_s=0.05)
        self.store = ProgressStore(members)
        self.states: dict[int, dict[str, Any]] = {}
        self.begun: list[dict[str, Any]] = []
        self.with_torch: list[bool] = []
        self._rounds: asyncio.Task[None] | None = None

    async def open(self, shared: Any) -> None:
        """What trials share says nothing here."""

    async def next_epoch(
        self, seat: str, member_id: str, trial: Mapping[str, Any], epoch: int, start: str | None
    ) -> Report:
        self._rounds = self._rounds or asyncio.create_task(self._train())
        if seat not in self.roster:
            latest = None if start else self.store.latest(member_id)
            if latest is not None and latest["epoch"] > epoch:
                return latest
            start = latest[PATH] if latest else start
        return await self.roster.next_epoch(Joining(seat=seat, member_id=member_id, trial=trial, path=start), epoch)

    async def leave(self, seat: str) -> None:
        await self.roster.leave(seat)

    async def saw(self, torch: bool) -> None:
        """A trial's process says whether it has torch."""
        self.with_torch.append(torch)

    async def seen(self) -> dict[str, Any]:
        """Who began where, whose processes had torch, and how many still have a seat."""
        return {"begun": self.begun, "with_torch": self.with_torch, "num_seats": len(self.roster)}

    async def _train(self) -> None:
        while (round_ := await self.roster.next_round()) is not None:
            training = [joining for joining in round_.members if joining.seat in round_.training]
            await self.roster.deliver({joining.seat: self._report(joining) for joining in training})

    def _report(self, joining: Joining) -> Report:
        if joining.number not in self.states:
            file = Path(joining.path, STATE) if joining.path else None
            self.states[joining.number] = json.loads(file.read_text()) if file else {"epoch": 0, "accuracy": 0.0}
            self.begun.append({**asdict(joining), **self.states[joining.number]})
        state = self.states[joining.number]
        state["epoch"] += 1
        state["accuracy"] += joining.trial["train"]["lr"]
        with tempfile.TemporaryDirectory() as folder:
            Path(folder, STATE).write_text(json.dumps(state))
            Path(folder, "bundle").mkdir()
            Path(folder, "bundle", TRAINED).write_text(json.dumps(joining.trial))
            report = {"epoch": state["epoch"], "val/accuracy": state["accuracy"], "val/loss": 1 - state["accuracy"]}
            return self.store.save(joining.member_id, state["epoch"], Path(folder), report)


class WatchedTrial(Trial):
    """The trainable, whose process tells what it has imported."""

    def step(self) -> dict[str, Any]:
        report = super().step()
        ray.get(self._service.saw.remote("torch" in sys.modules))
        return report
