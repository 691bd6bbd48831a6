"""Whole coordinators with members as values: answers come by their calls, and only sums can be read."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Mapping
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import xxhash

from common.clock import ManualClock
from common.errors import Reason, Refused
from common.orders import Answer, JoinRequest, ModelArchitecture, Order, Reply, Session, Update
from common.parameters.schema import ParameterSchema
from common.parameters.vector import Vector
from common.ports import single
from server.core.open_round import OrderState
from server.core.phases import Phase
from server.core.state import FederationState
from server.engine.coordinator import Coordinator, Federation
from server.reporting.report import round_scores
from server.storage.journal import Journal
from server.storage.models import JournalledModels, ModelFiles
from tests.core_cases import SCHEMAS
from tests.masked_cases import FIVE, Member, masked_rules

PARAMETERS = {scope: ParameterSchema.of({scope: (nbytes // 4,)}) for scope, (_, nbytes) in SCHEMAS.items()}
Stops = Callable[[Coordinator], bool]


class Lives:
    """One run in a folder, through as many processes as a test wants."""

    def __init__(self, folder: Path, masks: bool, by_task: bool = False) -> None:
        self.folder, self.settings = folder, masked_rules(masks, min_clients=len(FIVE), by_task=by_task)
        self.members = {name: Member(name, self.settings, examples) for name, examples in FIVE.items()}
        self.answers: dict[str, Answer] = {}
        self.sessions: dict[str, Session] = {}
        first = {scope: np.zeros(schema.size, dtype=np.float32) for scope, schema in PARAMETERS.items()}
        ModelFiles(folder, PARAMETERS).write(0, first, first)

    async def live(self, stops: Stops, gone: Mapping[str, str] = {}, keep: bool = False) -> Coordinator:
        """From the journal until the run is over or stopped, or to `keep` on; `gone` clients fail in a phase."""
        journal = Journal(self.folder / "journal.sqlite")
        models = JournalledModels(ModelFiles(self.folder, PARAMETERS), journal)
        architecture = ModelArchitecture("{}", "cross", 8, "", 0)
        federation = Federation("masked", architecture, (), PARAMETERS, b"", {}, poll_seconds=0.0)
        state: FederationState = journal.restore(SCHEMAS, 60.0)
        coordinator = Coordinator(self.settings, state, federation, journal, models, ManualClock())
        await coordinator.start()
        for name, examples in FIVE.items():
            tasks = tuple(task for task in self.settings.tasks if task.name in examples)
            rows = tuple((task, 1) for task in examples)
            welcome = await coordinator.join(JoinRequest(name, tasks, rows, validation=rows))
            self.sessions[name] = welcome.session
        while coordinator.state.phase is not Phase.FINISHED and not stops(coordinator):
            for name in self.members:
                order = (await coordinator.poll(self.sessions[name], "")).order
                if order is not None and order.order_id.startswith(gone.get(name, "-")):
                    await coordinator.report_failure(self.sessions[name], order.order_id, "gone")
                elif order is not None:
                    await self.answer(coordinator, name, order)
                await coordinator.tick()  # after everything that is still being carried out
                if stops(coordinator):
                    break
        if not keep:
            journal.close()
        return coordinator

    async def answer(self, coordinator: Coordinator, name: str, order: Order) -> None:
        """Answer an order; the same again where it was answered before, as from a client's disk."""
        if order.order_id not in self.answers:
            self.answers[order.order_id] = self.members[name].answer(order)
        found = self.answers[order.order_id]
        if isinstance(found, Reply):
            await coordinator.poll(self.sessions[name], "", found)
            return
        data = bytes(found.payload)
        header = replace(found.header, digest=xxhash.xxh3_128_hexdigest(data))
        self.answers[order.order_id] = Update(header, data)
        await coordinator.submit(self.sessions[name], header, lambda _: single(data))

    def run(self, stops: Stops = lambda _: False, gone: Mapping[str, str] = {}) -> Coordinator:
        return asyncio.run(self.live(stops, gone))

    def sums(self) -> list[str]:
        return [path.name for path in self.folder.glob("sums/*")]


def same(left: Mapping[str, Vector], right: Mapping[str, Vector]) -> bool:
    return left.keys() == right.keys() and all(left[k].tobytes() == right[k].tobytes() for k in left)


def folder(place: Path, name: str) -> Path:
    (place / name).mkdir()
    return place / name


@pytest.mark.parametrize("by_task", [False, True])
def test_masked_and_plain_sums_make_the_same_version(tmp_path: Path, by_task: bool) -> None:
    masked = Lives(folder(tmp_path, "masked"), masks=True, by_task=by_task)
    plain = Lives(folder(tmp_path, "plain"), masks=False, by_task=by_task)
    first, second = masked.run(), plain.run()
    assert first.state.phase is second.state.phase is Phase.FINISHED
    assert same(first.vectors, second.vectors) and np.any(first.vectors["shared"])
    assert first.state.losses == second.state.losses == {"sst2": 0.5, "qqp": 0.5}
    assert not masked.sums() and not plain.sums()


@pytest.mark.parametrize("phase", ["keys", "shares", "train", "unmask", "scorekeys", "evaluate", "scoreunmask"])
def test_a_coordinator_that_dies_in_any_phase_comes_to_the_same_version(tmp_path: Path, phase: str) -> None:
    whole, killed = Lives(folder(tmp_path, "whole"), masks=True), Lives(folder(tmp_path, "killed"), masks=True)

    def stops(coordinator: Coordinator) -> bool:
        open_ = coordinator.state.open
        return open_ is not None and open_.phase.name == phase and open_.count(OrderState.ACCEPTED) == 2

    dead = killed.run(stops)
    assert dead.state.open is not None and dead.state.open.phase.name == phase
    assert bool(killed.sums()) is phase.endswith("unmask")
    second = killed.run()
    assert same(second.vectors, whole.run().vectors) and second.state.phase is Phase.FINISHED
    assert not killed.sums()


def test_scores_and_losses_are_in_the_journal_as_sums_alone(tmp_path: Path) -> None:
    run = Lives(folder(tmp_path, "run"), masks=True)
    coordinator = run.run(gone={"dee": "train"})
    journal = Journal.read(run.folder / "journal.sqlite")
    rounds = [found for found in journal.rounds() if not found.phase.is_stage]
    assert [found.phase.name for found in rounds] == ["train", "evaluate"]
    assert [found.sums is not None for found in rounds] == [True, True]
    assert not [
        order for found in journal.rounds() for order in found.orders.values() if order.results or order.content
    ]
    scores = round_scores(coordinator.settings.tasks, rounds[0])["sst2"]
    assert scores.validation_examples == 30 and scores.scores["accuracy"] == pytest.approx(0.7)
    assert scores.local_training_loss_next_round == 0.5 and scores.clients is None
    assert {result.task: result.examples for result in rounds[0].results} == {"sst2": 90, "qqp": 125}


def test_what_answers_a_phase_that_is_over_is_too_late_and_nothing_else_happens(tmp_path: Path) -> None:
    run = Lives(folder(tmp_path, "run"), masks=True)

    async def scenario() -> None:
        coordinator = await run.live(lambda c: c.state.open is not None and c.state.open.phase.name == "train")
        before, late = coordinator.state, run.answers["keys-1.1-ann"]
        with pytest.raises(Refused) as refusal:
            await coordinator.poll(run.sessions["ann"], "", late)
        assert refusal.value.reason is Reason.TOO_LATE
        after = coordinator.state
        tally = after.clients["ann"].tally
        assert tally == before.clients["ann"].tally.add(refused=1) and after.open == before.open

    asyncio.run(scenario())
