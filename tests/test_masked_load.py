"""What masked rounds cost the coordinator: memory does not grow with clients, and calls go on while sums are opened."""

from __future__ import annotations

import asyncio
import gc
import secrets
import threading
import tracemalloc
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import xxhash

from common.bodies import RING, Train
from common.clock import ManualClock
from common.orders import JoinRequest, ModelArchitecture, Order, PollKind, Reply, ScopePayload, Session, UpdateHeader
from common.parameters.schema import ParameterSchema
from common.ports import single
from common.secure.letters import LETTER_BYTES
from common.secure.masking import Gathering, Terms
from common.secure.roster import Roster
from common.secure.terms import Announcement
from common.stages import AnnouncedKeys, Keys, SealedShares, Shares
from server.aggregation import ring_sums
from server.core import circles
from server.engine.coordinator import Coordinator, Federation
from server.storage.journal import Journal
from server.storage.models import JournalledModels, ModelFiles
from tests.core_cases import TASKS
from tests.masked_cases import masked_rules
from tests.test_masked_coordinator import Lives

SIZE = 500_000
UPLOAD = 4 * SIZE
SCHEMAS = {"shared": ParameterSchema.of({"w": (SIZE,)}), "task/sst2": ParameterSchema.of({"h": (10,)})}
ARCHITECTURE = ModelArchitecture("{}", "cross", 8, "", 0)


def coordinator_of(folder: Path, clients: int) -> Coordinator:
    folder.mkdir()
    first: dict[str, Any] = {scope: np.zeros(schema.size, dtype=np.float32) for scope, schema in SCHEMAS.items()}
    ModelFiles(folder, SCHEMAS).write(0, first, first)
    journal = Journal(folder / "journal.sqlite")
    schemas = {scope: (schema.digest, schema.nbytes) for scope, schema in SCHEMAS.items()}
    rules = masked_rules(min_clients=clients, schemas=schemas, tasks=TASKS[:1])
    federation = Federation("masked", ARCHITECTURE, (), SCHEMAS, b"", {}, poll_seconds=0.0)
    state = journal.restore(schemas, 60.0)
    models = JournalledModels(ModelFiles(folder, SCHEMAS), journal)
    return Coordinator(rules, state, federation, journal, models, ManualClock())


def announced(name: str, body: Keys) -> AnnouncedKeys:
    """Keys that nobody has the private side of."""
    made = [(circle.name, [secrets.token_bytes(32) for _ in range(3)]) for circle in body.circles]
    return AnnouncedKeys(tuple((circle, Announcement(name, *keys)) for circle, keys in made))


def sealed(name: str, body: Shares) -> SealedShares:
    """Letters that say nothing."""
    letters = []
    for circle, roster in body.rosters:
        near = Gathering(Terms(3), Roster(f"run|1.1|{circle}", roster)).neighbours[name]
        letters.append((circle, tuple((reader, secrets.token_bytes(LETTER_BYTES)) for reader in sorted(near))))
    return SealedShares(tuple(letters))


async def handed_in(coordinator: Coordinator, session: Session, order: Order) -> None:
    """Random bytes, as masked ones are."""
    assert isinstance(order.body, Train) and order.body.sums is not None
    layouts = [circles.layout(coordinator.settings, part.circle) for part in order.body.sums.parts]
    data = secrets.token_bytes(sum(layout.nbytes for layout in layouts))
    scopes = tuple(ScopePayload(each.circle.scope, order.version, each.digest, each.nbytes) for each in layouts)
    header = UpdateHeader(order.order_id, RING, scopes, xxhash.xxh3_128_hexdigest(data), (), 0.0)
    await coordinator.submit(session, header, lambda _: single(data))


async def peak_of(folder: Path, clients: int) -> int:
    """The most memory while so many clients hand in, up to their orders to unmask, beside what was there before."""
    coordinator, sessions = coordinator_of(folder, clients), dict[str, Session]()
    await coordinator.start()
    for name in (f"c{number}" for number in range(clients)):
        rows = (("sst2", 1),)
        sessions[name] = (await coordinator.join(JoinRequest(name, TASKS[:1], rows, validation=rows))).session
    for stage in ("keys", "shares", "train"):
        if stage == "train":
            gc.collect()
            tracemalloc.start()
        for name, session in sessions.items():
            order = (await coordinator.poll(session, "")).order
            assert order is not None and order.order_id == f"{stage}-1.1-{name}"
            match order.body:
                case Keys():
                    content: Any = announced(name, order.body)
                case Shares():
                    content = sealed(name, order.body)
                case _:
                    await handed_in(coordinator, session, order)
                    continue
            await coordinator.poll(session, "", Reply(order.order_id, (), 0.0, content))
    await coordinator.tick()
    assert coordinator.state.open is not None and coordinator.state.open.phase.name == "unmask"
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    coordinator.journal.close()
    return peak


def test_memory_does_not_grow_with_the_clients_of_a_sum(tmp_path: Path) -> None:
    """300 uploads of 2 MB would be 600 MB; the sums and an upload or two are there at a time."""
    peaks = {clients: asyncio.run(peak_of(tmp_path / f"{clients}", clients)) for clients in (10, 100, 300)}
    assert peaks[10] < 4 * UPLOAD
    assert peaks[100] < peaks[10] + UPLOAD and peaks[300] < peaks[10] + 2 * UPLOAD, peaks


def test_calls_are_answered_while_sums_are_opened(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    run, begun, answered = Lives(tmp_path, masks=True), threading.Event(), threading.Event()
    unmask = ring_sums.unmask

    def waiting(*parts: Any) -> Any:
        begun.set()
        assert answered.wait(30), "the event loop stood still while sums were opened"
        return unmask(*parts)

    monkeypatch.setattr(ring_sums, "unmask", waiting)

    async def scenario() -> None:
        def last_is_asked(coordinator: Coordinator) -> bool:
            open_ = coordinator.state.open
            waits = [] if open_ is None else [o for o in open_.orders.values() if o.state.value == "issued"]
            return open_ is not None and open_.phase.name == "unmask" and len(waits) == 1

        coordinator = await run.live(last_is_asked, keep=True)
        coordinator._federation = replace(coordinator._federation, poll_seconds=0.5)
        parked = asyncio.ensure_future(coordinator.poll(run.sessions["ann"], ""))
        order = (await coordinator.poll(run.sessions["eve"], "")).order
        assert order is not None
        last = asyncio.ensure_future(run.answer(coordinator, "eve", order))
        assert await asyncio.to_thread(begun.wait, 30)
        assert (await parked).kind is PollKind.WAIT and (await coordinator.status()).round == 1
        assert coordinator.state.completed_rounds == 0
        answered.set()
        await last
        await coordinator.tick()
        assert coordinator.state.completed_rounds == 1
        coordinator.journal.close()

    asyncio.run(scenario())
