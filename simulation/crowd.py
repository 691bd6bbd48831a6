"""Thousands of clients in one process: who works when, who drops out, who is too late."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path

from client.agent import Agent
from client.app import choose_device, limits_of, local_definitions
from client.data.examples import TaskData
from client.state.store import PendingUpdate, RunStore
from client.training.procedures import Procedure
from client.worker import Computing
from common.clock import ManualClock
from common.config import Config
from common.errors import ConfigError
from common.orders import Order, OrderKind, Session, Welcome
from common.parameters.schema import ParameterSchema
from common.ports import CoordinatorPort
from common.seeds import derive_seed
from server.core.state import OrderState, Rules
from server.engine.coordinator import Coordinator
from server.engine.observer import Observer
from server.engine.payload import Payload
from server.runs.assembly import in_memory, plan_rules
from server.runs.model import MTLServerModel
from simulation.inprocess import run_together
from simulation.population import VirtualClient, rows_of
from simulation.workshop import VirtualStore, VirtualWorker, Workshop

FOREVER = 365 * 86400.0
"""Longer than any simulated run: virtual clients do not fall silent, and polls need no answer but an order."""

LOOK_SECONDS = 0.005
"""How often somebody looks whether only late clients are left; seconds of real time, since the others really work."""

DROPPED_OUT = "SimulatedDropout: the client dropped out"


def strikes(share: float, seed: int, what: str, order_id: str) -> bool:
    """Whether an event that hits a share of all orders hits this one; the same in every run."""
    return derive_seed(seed, what, order_id) < share * 2**63


class Time:
    """Moves the manual clock: to a round's deadline, as soon as only those still owe an update who will be late."""

    def __init__(self, coordinator: Coordinator, clock: ManualClock) -> None:
        self._coordinator = coordinator
        self._clock = clock
        self._late: set[str] = set()
        self._passed = asyncio.Event()

    async def miss_deadline(self, order_id: str) -> None:
        """Return when the deadline of the order's round has passed."""
        leads, passed = not self._late, self._passed
        self._late.add(order_id)
        while leads and not passed.is_set():  # one of the late ones looks at the clock for all
            await asyncio.sleep(LOOK_SECONDS)
            await self._perhaps_pass()
        await passed.wait()

    async def _perhaps_pass(self) -> None:
        open_ = self._coordinator.state.open
        assert open_ is not None  # it holds the order of whoever is late
        if any(o.state is OrderState.ISSUED and o.order_id not in self._late for o in open_.orders.values()):
            return
        self._late.clear()
        passed, self._passed = self._passed, asyncio.Event()
        self._clock.advance(max(open_.deadline - self._clock.now(), 0.0))
        await self._coordinator.tick()
        passed.set()


class VirtualAgent(Agent):
    """An agent that borrows a bench for each order, unless a seeded accident keeps it from working."""

    def __init__(self, port: CoordinatorPort, worker: VirtualWorker, state: Path, crowd: Crowd) -> None:
        super().__init__(port, worker, state, limits_of(crowd.config))
        self._virtual = worker
        self._crowd = crowd

    def _open_store(self, folder: Path) -> RunStore:
        return VirtualStore(folder)

    async def _submit(self, session: Session, update: PendingUpdate) -> None:
        await self._port.submit(session, update.header, Payload(update.payload))  # nothing is damaged on the way

    async def _work(self, session: Session, welcome: Welcome, order: Order) -> None:
        crowd, section = self._crowd, self._crowd.config.simulation
        if order.kind is OrderKind.TRAIN:
            if strikes(section.dropouts, order.seed, "dropout", order.order_id):
                await self._port.report_failure(session, order.order_id, DROPPED_OUT)
                return
            if strikes(section.stragglers, order.seed, "straggler", order.order_id):
                await crowd.time.miss_deadline(order.order_id)
                return
        async with crowd.workshop.bench() as bench:
            self._virtual.sit_down(bench)
            try:
                await super()._work(session, welcome, order)
            finally:
                self._virtual.get_up()


class Crowd:
    """All virtual clients of one coordinator.

    Args:
        config: the configuration; its section `simulation` says what happens to whom.
        coordinator: whose clock `clock` is.
        schemas: of every scope of the federation, private ones included.
        clients: who takes part.
        state: folder for what clients keep, one folder each.
        connect: what a client calls instead of the coordinator itself, by client id.
        procedure: takes the place of the one that orders name.
        rows: of every client by task, where they were read before.

    Raises:
        ConfigError: the clients shall have an encoder of their own depth.
    """

    def __init__(
        self,
        config: Config,
        coordinator: Coordinator,
        clock: ManualClock,
        schemas: Mapping[str, ParameterSchema],
        clients: Sequence[VirtualClient],
        state: Path,
        connect: Callable[[str], CoordinatorPort] | None = None,
        procedure: Procedure | None = None,
        rows: Mapping[str, Mapping[str, TaskData]] | None = None,
    ) -> None:
        if config.client.layers is not None:
            raise ConfigError("client.layers: simulated clients take turns at models of full depth; leave it out")
        self.config = config
        self.time = Time(coordinator, clock)
        device = choose_device(config.client.device)
        self.workshop = Workshop(config.simulation.workers, schemas, plan_rules(config, schemas), device)
        section = config.client
        computing = Computing(section.compact_vocabulary, section.precision, trains=section.trains)
        capabilities = (f"data-{config.data.source}",)
        rows = rows_of(config, clients) if rows is None else rows
        self.agents = [
            VirtualAgent(
                connect(client.client_id) if connect is not None else coordinator,
                VirtualWorker(
                    client.client_id,
                    local_definitions(config, client.tasks),
                    rows[client.client_id],
                    device,
                    capabilities,
                    procedure,
                    computing,
                ).enter(self.workshop),
                state / client.client_id,
                self,
            )
            for client in clients
        ]


def rules_for_crowd(rules: Rules, clients: int) -> Rules:
    """The rules of a simulated run: it begins with everybody, and nobody is given up for being silent."""
    return replace(rules, min_clients=clients, lease_seconds=FOREVER)


async def run_crowd(
    config: Config,
    model: MTLServerModel,
    clients: Sequence[VirtualClient],
    state: Path,
    observer: Observer | None = None,
    wrap: Callable[[Coordinator], CoordinatorPort] | None = None,
) -> tuple[Coordinator, Crowd]:
    """A simulated run without a run folder; clients call what `wrap` makes of the coordinator.

    Raises:
        ExceptionGroup: what the clients raised.
    """
    clock = ManualClock()
    coordinator = in_memory(config, model, clock, observer)
    coordinator.rules = rules_for_crowd(coordinator.rules, len(clients))
    port = wrap(coordinator) if wrap is not None else coordinator
    crowd = Crowd(config, coordinator, clock, model.schemas, clients, state, lambda _: port)
    await run_together(coordinator, crowd.agents)
    return coordinator, crowd
