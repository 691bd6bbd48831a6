"""Jobs of virtual clients in Ray actors: each has a replica, and takes examples and weights by object reference.

The actors are processes of this machine. Ray is started for one simulation and listens on loopback alone.
"""

from __future__ import annotations

import asyncio
import logging
import os
import secrets
import signal
import threading
from collections.abc import AsyncIterator, Iterator, Mapping
from contextlib import asynccontextmanager, contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any, assert_never

import numpy as np
import torch
from numpy.typing import NDArray
from torch import nn

from client.app import limit_threads
from client.data.examples import Tokenizer
from client.jobs.executor import Executor, Workspace, prepared
from client.jobs.job import Job, JobResult, require_capacity, run_job
from client.jobs.kept_slice import KeptSlice
from client.jobs.local_client import Computing, LocalClient
from client.jobs.precision import PrecisionChoice
from client.jobs.synchronizer import ClientModelSynchronizer, fill
from client.training.compact import Examples
from client.training.loop import Progress, TaskSet
from client.training.work import ClientState, Procedure
from common.bodies import ScopeVersion
from common.capabilities import Capacity
from common.encoders.given import held_modules, hold
from common.encoders.module import trust, trusted_files
from common.errors import ConfigError, RunFailedError, foreign_errors
from common.models.own_module import Widths
from common.models.packed_tokenizer import unpack_tokenizer
from common.orders import Order, Reply, Update, Welcome
from common.parameters.flat import zeros
from common.parameters.schema import ParameterSchema
from common.parameters.scope import Scope
from common.ports import Chunk, single
from common.stopping import at_the_end
from simulation.model_pool import Replica

# Ray reads these when it is imported or starts.
os.environ.setdefault("RAY_ENABLE_WINDOWS_OR_OSX_CLUSTER", "0")  # loopback, on every system
os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")
os.environ.setdefault("RAY_AUTH_TOKEN", secrets.token_hex(32))  # else Ray writes one to the home folder

import ray
from ray.exceptions import RayError, RayTaskError

Reference = Any
"""Of an object in Ray's store, or of an actor; Ray gives neither a type that says of what."""


@dataclass(frozen=True)
class RemoteClient:
    """What an actor must know of a client."""

    tasks: tuple[str, ...]
    scopes: tuple[str, ...]
    capacity: Capacity
    computing: Computing
    procedure: Procedure | None
    sets: tuple[TaskSet, ...]


class ReplicaActor:
    """One model in a process of its own."""

    def build(
        self,
        welcome: Welcome,
        schemas: Mapping[str, ParameterSchema],
        rules: tuple[tuple[str, str], ...],
        threads: int,
        files: Mapping[str, Path],
        modules: Mapping[str, tuple[nn.Module, Widths]],
    ) -> None:
        """Build the replica. An error in a constructor would reach nobody as what it is."""
        limit_threads(threads)
        trust(files)
        for sha256, held in modules.items():
            hold(sha256, *held)
        self._replica = Replica.of_everybody(welcome, schemas, rules, torch.device("cpu"))

    def run(self, client: RemoteClient, order: Order, state: ClientState, *values: NDArray[np.generic]) -> JobResult:
        """Carry out an order; `values` are those of its scopes, in the order of `order.needed`."""
        part, computing = self._replica.part(client.tasks, client.scopes), client.computing
        asyncio.run(_receive(part, order, values))
        examples = Examples.of(part.model, client.sets, computing.compact_vocabulary)
        precision = PrecisionChoice(computing.precision, None)
        result = run_job(
            Job(order, examples, client.capacity, precision, _unwatched, client.procedure, client.computing.work),
            part,
            state,
        )
        match result.answer:
            case Update(header, payload):  # a view of memory cannot travel
                return replace(result, answer=Update(header, bytes(payload)))
            case Reply():
                return result
            case _:
                assert_never(result.answer)


async def _receive(part: ClientModelSynchronizer, order: Order, values: tuple[NDArray[np.generic], ...]) -> None:
    found = dict(zip(order.needed, values, strict=True))
    for wanted in part.missing(order.needed):
        await part.receive(wanted, single(found[wanted].data.cast("B")))


def _unwatched(fraction: float) -> None:
    """An actor hears nothing until it is done."""


class RayPool:
    """A fixed number of actors. They are started when the first client has heard from the coordinator.

    Args:
        size: how many clients work at a time.
        schemas: of every scope or template of the federation, private ones included.
        rules: the sharing plan as (match, template).
        threads: that an actor computes with.
    """

    def __init__(
        self, size: int, schemas: Mapping[str, ParameterSchema], rules: tuple[tuple[str, str], ...], threads: int
    ) -> None:
        self.schemas = schemas
        self._size = size
        self._rules = rules
        self._threads = threads
        self._actors: list[Reference] = []
        self._free: asyncio.Queue[Reference] | None = None
        self._reader: Tokenizer | None = None
        self._starting = threading.Lock()
        self._values: dict[str, tuple[int, Reference]] = {}

    @contextmanager
    def running(self) -> Iterator[None]:
        """See `Pool`. Linux ends Ray's processes with the thread that started them, so call this in the main thread.

        Raises:
            RunFailedError: Ray does not start.
        """
        logging.getLogger("ray").setLevel(logging.ERROR)
        folder = TemporaryDirectory(prefix="ray-", ignore_cleanup_errors=True)
        with folder as path, at_the_end(folder.cleanup):
            handler = signal.getsignal(signal.SIGTERM)
            try:
                self._start(path)
            except RunFailedError:  # Ray gives a node 30 seconds to start, too few on a loaded machine
                ray.shutdown()
                self._start(path)
            signal.signal(signal.SIGTERM, handler)  # Ray has put its own in place
            try:
                yield
            finally:
                ray.shutdown()

    def _start(self, path: str) -> None:
        with foreign_errors(lambda error: RunFailedError(f"simulation.executor: Ray does not start: {error}")):
            ray.init(
                "local",
                num_cpus=self._size * self._threads,
                include_dashboard=False,
                log_to_driver=False,
                configure_logging=False,
                _temp_dir=path,
            )

    def open(self, client: LocalClient, welcome: Welcome, tokenizer: bytes, folder: Path) -> Executor:
        """See `OpenExecutor`."""
        with self._starting:
            if not self._actors:
                self._reader = unpack_tokenizer(tokenizer) if tokenizer else None
                actor = ray.remote(num_cpus=self._threads)(ReplicaActor)
                actors: list[Reference] = [actor.remote() for _ in range(self._size)]
                with _errors_of_actors():
                    whole = (welcome, dict(self.schemas), self._rules, self._threads, trusted_files())
                    ray.get([actor.build.remote(*whole, _modules()) for actor in actors])
                self._actors = actors
        return RayExecutor(self, client, welcome, self._reader, folder)

    @asynccontextmanager
    async def borrow(self) -> AsyncIterator[Reference]:
        """An actor for as long as the caller needs it; waits for a free one."""
        if self._free is None:
            self._free = asyncio.Queue()
            for actor in self._actors:
                self._free.put_nowait(actor)
        actor = await self._free.get()
        try:
            yield actor
        finally:
            self._free.put_nowait(actor)

    def reference(self, wanted: ScopeVersion) -> Reference | None:
        """Where the values of a scope are, if they are in the store."""
        version, found = self._values.get(wanted.scope, (None, None))
        return found if version == wanted.version else None

    def share(self, wanted: ScopeVersion, found: Reference) -> None:
        """Let all clients of a round take these values from the store; older ones of the scope go."""
        self._values[wanted.scope] = wanted.version, found


class RayExecutor:
    """The executor of a client whose jobs run in actors."""

    def __init__(
        self, pool: RayPool, client: LocalClient, welcome: Welcome, reader: Tokenizer | None, folder: Path
    ) -> None:
        self._pool = pool
        self._kept = KeptSlice(client, welcome, b"", folder, beside_run=True)
        scopes = tuple(scope for scope, _ in welcome.schema_digests)
        self.schemas = {scope: pool.schemas[Scope.parse(scope).template] for scope in scopes}
        require_capacity(client.capacity, self.schemas)
        sets = prepared(client, welcome, reader)
        self._client = ray.put(
            RemoteClient(client.tasks, scopes, client.capacity, client.computing, client.procedure, sets)
        )

    @asynccontextmanager
    async def workspace(self) -> AsyncIterator[Workspace]:
        """See `Executor`."""
        async with self._pool.borrow() as actor:
            yield RayWorkspace(self._pool, actor, self._client, self.schemas, self._kept)


class RayWorkspace:
    """An actor, and the store that it takes weights from."""

    def __init__(
        self,
        pool: RayPool,
        actor: Reference,
        client: Reference,
        schemas: Mapping[str, ParameterSchema],
        kept: KeptSlice,
    ) -> None:
        self._pool = pool
        self._actor = actor
        self._client = client
        self._schemas = schemas
        self._kept = kept
        self._values: dict[ScopeVersion, Reference] = {}

    def missing(self, scopes: tuple[ScopeVersion, ...]) -> list[ScopeVersion]:
        """See `Workspace`."""
        self._values = {wanted: found for wanted in scopes if (found := self._pool.reference(wanted)) is not None}
        return [wanted for wanted in scopes if wanted not in self._values]

    async def receive(self, wanted: ScopeVersion, chunks: AsyncIterator[Chunk]) -> None:
        """See `Workspace`."""
        base = Scope.parse(wanted.scope).base
        vector = zeros(self._schemas[base])
        await fill(vector, chunks, wanted.scope)
        found = self._pool.reference(wanted)  # another client may have been faster
        if found is None:
            found = ray.put(vector.numpy())
            if not Scope.parse(base).is_member:
                self._pool.share(wanted, found)
        self._values[wanted] = found

    async def run(self, order: Order, state: ClientState, progress: Progress) -> JobResult:
        """See `Workspace`; an order that is not wanted any more is given up once the actor is done with it.

        Raises:
            RunFailedError: the actor's process ended.
        """
        values = [self._values[wanted] for wanted in order.needed]
        with _errors_of_actors():
            result: JobResult = await self._actor.run.remote(self._client, order, state, *values)
        progress(1.0)
        await self._kept.keep_if_wanted(order, {}, result.results, progress)
        return result


def _modules() -> Reference:
    """The modules that Python code gave this process, for actors.

    Raises:
        ConfigError: one cannot travel to another process.
    """
    with foreign_errors(
        lambda error: ConfigError(
            "simulation.executor: ray: the module that was given cannot be copied to another process "
            f"({type(error).__name__}: {str(error).splitlines()[0]:.200}); write thread, or give fedmtl.module(...)"
        )
    ):
        return ray.put(held_modules())


@contextmanager
def _errors_of_actors() -> Iterator[None]:
    """What an actor raises, as it was raised there; the end of its process as an error of ours."""
    try:
        yield
    except RayTaskError as error:
        raise error.cause from error
    except RayError as error:
        lines = str(error).splitlines()
        raise RunFailedError(
            f"simulation.executor: a Ray actor is gone ({lines[0]}); go on with --resume, or write thread"
        ) from None
