"""Thousands of clients in one process: who works when, who drops out, who is too late."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any, assert_never

import torch

from client.agent import Agent
from client.app import choose_device, limits_of, local_definitions, members_of
from client.data.examples import TaskData
from client.jobs.local_client import Computing, local_client
from client.jobs.solve import WorkShare
from client.state.store import REPEATABLE
from client.training.work import Procedure
from common.bodies import Evaluate
from common.capabilities import Capacity
from common.clock import ManualClock
from common.config import Config
from common.errors import ConfigError
from common.orders import Answer, Order, PollKind, PollReply, Session
from common.parameters.schema import ParameterSchema
from common.ports import CoordinatorPort
from common.seeds import derive_seed
from server.core.open_round import OrderState
from server.core.state import RunSettings
from server.engine.coordinator import Coordinator
from server.engine.observer import Observer
from server.runs.assembly import in_memory, plan_rules
from server.runs.model import MTLServerModel
from simulation.inprocess import run_together
from simulation.model_pool import ModelPool, Pool
from simulation.population import VirtualClient, rows_of

FOREVER = 365 * 86400.0
"""Longer than any simulated run: virtual clients do not fall silent, and polls need no answer but an order."""

LOOK_SECONDS = 0.005
"""How often somebody looks whether only late clients are left; seconds of real time, since the others really work."""

DROPPED_OUT = "SimulatedDropout: the client dropped out"


def strikes(share: float, seed: int, what: str, order_id: str) -> bool:
    """Whether an event that hits a share of all orders hits this one; the same in every run."""
    return derive_seed(seed, what, order_id) < share * 2**63


class SimulatedTime:
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


class AccidentProne:
    """A coordinator's port whose client never sees the orders that a seeded accident keeps it from carrying out."""

    def __init__(self, port: CoordinatorPort, config: Config, time: SimulatedTime) -> None:
        self._port = port
        self._section = config.simulation
        self._seed = config.run.seed
        self._time = time

    def __getattr__(self, name: str) -> Any:
        return getattr(self._port, name)

    async def poll(self, session: Session, pending_order: str, answer: Answer | None = None) -> PollReply:
        """See `CoordinatorPort`."""
        reply = await self._port.poll(session, pending_order, answer)
        if reply.order is None or not await self._hit(session, reply.order):
            return reply
        return replace(reply, kind=PollKind.WAIT, order=None)

    async def _hit(self, session: Session, order: Order) -> bool:
        """Whether an accident keeps the client from an order; scoring has none."""
        if isinstance(order.body, Evaluate):
            return False
        if strikes(self._section.dropouts, self._seed, "dropout", order.order_id):
            await self._port.report_failure(session, order.order_id, DROPPED_OUT)
            return True
        if strikes(self._section.stragglers, self._seed, "straggler", order.order_id):
            await self._time.miss_deadline(order.order_id)
            return True
        return False


class VirtualClients:
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
        time, device, section = SimulatedTime(coordinator, clock), choose_device(config.client.device), config.client
        self.pool = open_pool(config, schemas, device)
        computing = Computing(
            section.compact_vocabulary,
            section.precision,
            Capacity(section.trains),
            limits_of(config),
            WorkShare(*section.work_range()),
            config.privacy.of_rows,
            members_of(config),
        )
        rows = rows_of(config, clients) if rows is None else rows
        self.agents = [
            Agent(
                AccidentProne(connect(client.client_id) if connect is not None else coordinator, config, time),
                local_client(
                    client.client_id,
                    local_definitions(config, client.tasks),
                    rows[client.client_id],
                    device,
                    config.data.source,
                    procedure,
                    computing,
                ),
                state / client.client_id,
                self.pool.open,
                REPEATABLE,
            )
            for client in clients
        ]


def open_pool(config: Config, schemas: Mapping[str, ParameterSchema], device: torch.device) -> Pool:
    """The models that virtual clients share.

    Raises:
        ConfigError: they shall be in Ray actors, which cannot be or do what the configuration says.
    """
    size, rules = config.simulation.workers, plan_rules(config, schemas)
    match config.simulation.executor:
        case "thread":
            return ModelPool(size, schemas, rules, device)
        case "ray":
            if device.type != "cpu":
                raise ConfigError(
                    "client.device: Ray actors compute on the CPU; write cpu, or simulation.executor: thread"
                )
            if config.client.precision == "auto":
                raise ConfigError(
                    "client.precision: auto, but Ray actors may choose differently; write float32 or bfloat16"
                )
            try:
                from simulation.ray_pool import RayPool
            except ModuleNotFoundError as error:
                raise ConfigError(
                    f"simulation.executor: ray needs the package '{error.name}'; run pip install 'fedmtl[ray]', or "
                    "write thread"
                ) from None
            return RayPool(size, schemas, rules, config.client.threads)
        case _:
            assert_never(config.simulation.executor)


def settings_for_simulation(settings: RunSettings, clients: int) -> RunSettings:
    """The settings of a simulated run: it begins with everybody, and nobody is given up for being silent."""
    return replace(settings, min_clients=clients, lease_seconds=FOREVER)


async def run_virtual_clients(
    config: Config,
    model: MTLServerModel,
    clients: Sequence[VirtualClient],
    state: Path,
    observer: Observer | None = None,
    wrap: Callable[[Coordinator], CoordinatorPort] | None = None,
) -> tuple[Coordinator, VirtualClients]:
    """A simulated run without a run folder; clients call what `wrap` makes of the coordinator.

    Raises:
        ExceptionGroup: what the clients raised.
    """
    clock = ManualClock()
    coordinator = in_memory(config, model, clock, observer)
    coordinator.writer.settings = settings_for_simulation(coordinator.settings, len(clients))
    port = wrap(coordinator) if wrap is not None else coordinator
    virtual = VirtualClients(config, coordinator, clock, model.schemas, clients, state, lambda _: port)
    with virtual.pool.running():
        await run_together(coordinator, virtual.agents)
    return coordinator, virtual
