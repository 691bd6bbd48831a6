"""Coordinators and clients that die at a chosen step, and what brings them back."""

from __future__ import annotations

import asyncio
import shutil
from collections.abc import AsyncIterator, Callable, Coroutine, Iterator
from contextlib import AsyncExitStack, asynccontextmanager, contextmanager, suppress
from functools import partial
from pathlib import Path
from typing import Any
from unittest import mock

import torch

from client.agent import Agent
from client.app import load_data, local_definitions
from client.data.examples import TaskData
from client.jobs.executor import ThreadExecutor, Workspace
from client.jobs.job import JobResult
from client.jobs.local_client import local_client
from client.training.loop import Progress
from client.training.work import ClientState
from client.transport.grpc_port import GrpcCoordinator
from common.clock import ManualClock
from common.config import Config
from common.orders import Order
from common.ports import CoordinatorPort
from common.tasks import TaskDefinition
from server.core.effects import Effect, Notice
from server.core.state import FederationState
from server.engine.coordinator import Coordinator
from server.reporting.values import to_json
from server.runs.app import begin_run, restore_run, serve
from server.runs.run_folder import RunFolder
from server.storage.journal import Journal
from server.storage.models import JournalledModels, ModelFiles
from tests.federations import CLIENTS, Clients, SubmittingPort, digest_of

STREAMS = ("fetch", "fetch_tokenizer")


class Crash(Exception):
    """The coordinator's process is gone."""


class Mortal(Coordinator):
    """A coordinator that dies right after one of its effects; log lines do not count."""

    dies_after: int | None = None

    def __init__(self, *parts: Any) -> None:
        super().__init__(*parts)
        self.effects: list[str] = []
        self.dead = asyncio.Event()
        self._finish = self.writer.handler.finish
        self.writer.handler.finish = self._finish_or_die

    def _finish_or_die(self, effect: Effect, state: FederationState) -> None:
        self._finish(effect, state)
        if not isinstance(effect, Notice):
            self.effects.append(type(effect).__name__)
            if len(self.effects) == self.dies_after:
                self.dead.set()
                raise Crash


class Line:
    """What clients call: the coordinator that lives. A call that dies with one is made again at the next."""

    def __init__(self) -> None:
        self._coordinator: Mortal | None = None
        self._up = asyncio.Event()

    def connect(self, coordinator: Mortal) -> None:
        self._coordinator = coordinator
        self._up.set()

    def cut(self) -> None:
        self._up.clear()

    def __getattr__(self, name: str) -> Callable[..., Any]:
        return getattr(self, "_stream" if name in STREAMS else "_call").__get__(self)(name)

    def _stream(self, name: str) -> Callable[..., AsyncIterator[bytes]]:
        async def chunks(*arguments: object) -> AsyncIterator[bytes]:
            await self._up.wait()
            async for chunk in getattr(self._coordinator, name)(*arguments):
                yield chunk

        return chunks

    def _call(self, name: str) -> Callable[..., Coroutine[Any, Any, Any]]:
        async def call(*arguments: object) -> object:
            while True:
                await self._up.wait()
                coordinator = self._coordinator
                assert coordinator is not None
                work = asyncio.ensure_future(getattr(coordinator, name)(*arguments))
                dead = asyncio.ensure_future(coordinator.dead.wait())
                try:
                    await asyncio.wait((work, dead), return_when=asyncio.FIRST_COMPLETED)
                    if not coordinator.dead.is_set():
                        return work.result()
                finally:
                    dead.cancel()
                    work.cancel()
                    await asyncio.wait((work,))
                with suppress(asyncio.CancelledError, Exception):
                    work.result()
                await asyncio.wait_for(self._replaced(coordinator), 30)

        return call

    async def _replaced(self, coordinator: Mortal) -> None:
        while self._coordinator is coordinator or not self._up.is_set():
            await self._up.wait()
            await asyncio.sleep(0)


class Fragile:
    """A client's port; the client dies before or after its n-th call (0: never)."""

    def __init__(self, port: CoordinatorPort, fatal: int, when: str) -> None:
        self._port = port
        self._fatal = fatal
        self._when = when
        self.calls: list[str] = []
        self.died = asyncio.Event()

    def __getattr__(self, name: str) -> Callable[..., Any]:
        return self._stream(name) if name in STREAMS else self._call(name)

    async def _perhaps_die(self, when: str, number: int) -> None:
        if (number, when) == (self._fatal, self._when):
            self.died.set()
            await asyncio.get_running_loop().create_future()  # until the client is cancelled

    def _call(self, name: str) -> Callable[..., Coroutine[Any, Any, Any]]:
        async def call(*arguments: object) -> object:
            self.calls.append(name)
            number = len(self.calls)
            await self._perhaps_die("before", number)
            reply = await getattr(self._port, name)(*arguments)
            await self._perhaps_die("after", number)
            return reply

        return call

    def _stream(self, name: str) -> Callable[..., AsyncIterator[bytes]]:
        async def chunks(*arguments: object) -> AsyncIterator[bytes]:
            self.calls.append(name)
            number = len(self.calls)
            await self._perhaps_die("before", number)
            async for chunk in getattr(self._port, name)(*arguments):
                yield chunk
            await self._perhaps_die("after", number)

        return chunks


class Gate(SubmittingPort):
    """A port (of a client, or in front of a coordinator) that holds updates back until their round is let through."""

    def __init__(self, port: CoordinatorPort, client: str) -> None:
        super().__init__(port)
        self._client = client
        self._open: dict[str, asyncio.Event] = {}
        self._reached: dict[str, asyncio.Event] = {}

    def let_through(self, round_name: str) -> None:
        """Hand in what answers orders such as `train-1.1`."""
        self._open.setdefault(round_name, asyncio.Event()).set()

    async def reached(self, round_name: str) -> None:
        """Return when the client has tried to hand in for this round."""
        await asyncio.wait_for(self._reached.setdefault(round_name, asyncio.Event()).wait(), 60)

    async def submit(self, session: Any, header: Any, chunks: Any) -> Any:
        if session.client_id == self._client:
            name = header.order_id.removesuffix(f"-{session.client_id}")
            self._reached.setdefault(name, asyncio.Event()).set()
            await self._open.setdefault(name, asyncio.Event()).wait()
        return await self._port.submit(session, header, chunks)


class Watch(SubmittingPort):
    """A port that tells how many updates of a round were accepted."""

    def __init__(self, port: CoordinatorPort) -> None:
        super().__init__(port)
        self._accepted: list[str] = []
        self._moved = asyncio.Condition()

    async def submit(self, session: Any, header: Any, chunks: Any) -> Any:
        receipt = await self._port.submit(session, header, chunks)
        async with self._moved:
            self._accepted.append(header.order_id)
            self._moved.notify_all()
        return receipt

    async def count(self, round_name: str, number: int) -> None:
        async with self._moved:
            await self._moved.wait_for(lambda: sum(x.startswith(round_name) for x in self._accepted) >= number)


class Counted(ThreadExecutor):
    """An executor that notes the orders that are carried out."""

    def __init__(self, executed: list[str], *parts: Any) -> None:
        super().__init__(*parts)
        self._executed = executed

    @asynccontextmanager
    async def workspace(self) -> AsyncIterator[Workspace]:
        async with super().workspace() as workspace:
            yield CountedWorkspace(workspace, self._executed)


class CountedWorkspace:
    def __init__(self, inner: Workspace, executed: list[str]) -> None:
        self._inner = inner
        self._executed = executed

    def __getattr__(self, name: str) -> Any:
        return getattr(self._inner, name)

    async def run(self, order: Order, state: ClientState, progress: Progress) -> JobResult:
        result = await self._inner.run(order, state, progress)
        self._executed.append(order.order_id)
        return result


class Cast:
    """The clients of a federation, whose rows are read once."""

    def __init__(self, config: Config, clients: Clients = CLIENTS) -> None:
        self._rows: dict[str, tuple[list[TaskDefinition], dict[str, TaskData]]] = {}
        for name, tasks, partition in clients:
            section = config.model_copy(update={"data": config.data.model_copy(update={"partition": partition})})
            definitions = local_definitions(section, tasks)
            self._rows[name] = (definitions, load_data(section, definitions))

        self.executed: list[str] = []

    @property
    def names(self) -> list[str]:
        return list(self._rows)

    def agent(self, name: str, port: Any, state: Path) -> Agent:
        """A client that knows nothing but what lies in its folder; `executed` tells which orders it works on."""
        definitions, rows = self._rows[name]
        client = local_client(name, definitions, rows, torch.device("cpu"))
        return Agent(port, client, state / name, partial(Counted, self.executed))


def prepare_run(config: Config, path: Path) -> Path:
    """A run folder with the initial model, to be copied."""
    folder = RunFolder.create(path)
    journal = Journal(folder.journal)
    with model_made_here():
        begin_run(config, folder, journal)
    journal.close()
    return path


@contextmanager
def model_made_here() -> Iterator[None]:
    """Make initial models in this process, which has torch already."""
    with mock.patch("server.runs.app.done_in_own_process", lambda work: work()):
        yield


async def serve_here(config: Config, resume: bool, state: Path, clients: str = "abcd") -> dict[str, Any]:
    """A federation on disk and over gRPC, server and clients in this process; its report."""
    listening: asyncio.Future[int] = asyncio.get_running_loop().create_future()
    with model_made_here():
        running = asyncio.ensure_future(serve(config, resume, None, listening.set_result))
        await asyncio.wait((running, listening), return_when=asyncio.FIRST_COMPLETED)
    if not listening.done():
        running.result()
    cast = Cast(config)
    async with AsyncExitStack() as stack:
        ports = [
            await stack.enter_async_context(GrpcCoordinator("127.0.0.1", listening.result(), None, name))
            for name in clients
        ]
        agents = [cast.agent(name, port, state).run() for name, port in zip(clients, ports, strict=True)]
        await asyncio.gather(*agents)
    return to_json(await running)


async def crash_and_recover(
    config: Config, template: Path, place: Path, cast: Cast, dies_after: int | None, clients_die: bool
) -> tuple[str, list[str]]:
    """Run a federation whose coordinator dies once; its digest, and the effects of the first coordinator."""
    shutil.copytree(template, place / "run")
    folder, line = RunFolder.resume(place / "run"), Line()
    effects: list[str] | None = None
    agents: asyncio.Future[Any] | None = None
    while True:
        journal = Journal(folder.journal)
        try:
            federation, rules, schemas, state = restore_run(config, folder, journal)
            files = JournalledModels(ModelFiles(folder.path, schemas), journal)
            coordinator = Mortal(rules, state, federation, journal, files, ManualClock(100.0))
            coordinator.dies_after = dies_after if effects is None else None
            await coordinator.start()
            line.connect(coordinator)
            if agents is None:
                agents = asyncio.gather(*(cast.agent(name, line, place).run() for name in cast.names))
            dead = asyncio.ensure_future(coordinator.dead.wait())
            await asyncio.wait((agents, dead), return_when=asyncio.FIRST_COMPLETED, timeout=60)
            dead.cancel()
            if not coordinator.dead.is_set():
                assert agents.done(), "the federation stands still"
                agents.result()
                return digest_of(coordinator), effects if effects is not None else coordinator.effects
            line.cut()
            if coordinator.writer._writing:
                await asyncio.wait(coordinator.writer._writing)
            effects = coordinator.effects
            if clients_die:
                agents = await _kill(agents)
        finally:
            journal.close()


def one_digest_whenever_it_dies(
    config: Config, folder: Path, clients: Clients, check: Callable[[Path], None], clients_die: bool = False
) -> int:
    """A run whose coordinator dies after each effect in turn ends as the undisturbed one; the number of effects.

    `check` looks at each run folder.
    """
    template, cast = prepare_run(config, folder / "template"), Cast(config, clients)

    def attempt(dies_after: int | None) -> tuple[str, int]:
        place = folder / str(dies_after)
        found, effects = asyncio.run(crash_and_recover(config, template, place, cast, dies_after, clients_die))
        check(place / "run")
        return found, len(effects)

    digest, count = attempt(None)
    for step in range(1, count + 1):
        assert attempt(step)[0] == digest, f"died after effect {step}"
    return count


async def _kill(agents: asyncio.Future[Any]) -> None:
    """End all clients and let none of their threads touch a file any more."""
    agents.cancel()
    with suppress(asyncio.CancelledError):
        await agents
    loop = asyncio.get_running_loop()
    threads = loop._default_executor  # type: ignore[attr-defined]
    if threads is not None:
        threads.shutdown(wait=True)
        loop._default_executor = None  # type: ignore[attr-defined]
