"""Jobs of virtual clients in Ray actors: each has a model, and takes examples and weights by object reference."""

from __future__ import annotations

import asyncio
import logging
import threading
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, assert_never

import numpy as np
import ray
import torch
from numpy.typing import NDArray
from ray.exceptions import RayTaskError

from client.app import limit_threads
from client.data.examples import Tokenizer
from client.executor import Executor, Workspace, prepared
from client.job import Job, JobResult, require_capacity, run_job
from client.local_client import Computing, LocalClient
from client.model import ClientModelSynchronizer, fill
from client.precision import PrecisionChoice
from client.training.compact import Examples
from client.training.loop import Progress, TaskSet
from client.training.procedures import ClientState, Procedure
from common.models.packed_tokenizer import unpack_tokenizer
from common.orders import Order, Reply, ScopeVersion, Update, Welcome
from common.parameters.schema import ParameterSchema
from common.parameters.scope import Scope
from common.ports import Piece, single
from simulation.model_pool import Replica

Reference = Any
"""Of an object in Ray's store; Ray gives it no type that says of what."""


@dataclass(frozen=True)
class RemoteClient:
    """What an actor must know of a client, beside its examples."""

    tasks: tuple[str, ...]
    scopes: tuple[str, ...]
    computing: Computing
    procedure: Procedure | None


class ReplicaActor:
    """One model in a process of its own."""

    def __init__(self, everybody: Welcome, device: torch.device, threads: int) -> None:
        limit_threads(threads)
        tasks = tuple(task.name for task in everybody.tasks)
        self._replica = Replica(ClientModelSynchronizer(everybody, tasks, device))

    def run(
        self,
        client: RemoteClient,
        order: Order,
        state: ClientState,
        sets: tuple[TaskSet, ...],
        *values: NDArray[np.float32],
    ) -> JobResult:
        """Carry out an order; `values` are those of its scopes, in the order of `order.needed`."""
        part, computing = self._replica.part(client.tasks, client.scopes), client.computing
        asyncio.run(_receive(part, order, values))
        examples = Examples.of(part.model, sets, computing.compact_vocabulary)
        precision = PrecisionChoice(computing.precision, None)
        job = Job(order, examples, computing.trains, precision, _unwatched, client.procedure)
        result = run_job(job, part, state)
        match result.answer:
            case Update(header, payload):  # which lies in memory that the next job uses
                return JobResult(Update(header, bytes(payload)), result.state)
            case Reply():
                return result
            case _:
                assert_never(result.answer)


async def _receive(part: ClientModelSynchronizer, order: Order, values: tuple[NDArray[np.float32], ...]) -> None:
    found = dict(zip(order.needed, values, strict=True))
    for wanted in part.missing(order.needed):
        await part.receive(wanted, single(found[wanted].data.cast("B")))


def _unwatched(fraction: float) -> None:
    """An actor hears nothing until it is done."""


class RayPool:
    """A fixed number of actors, started when the first client has heard from the coordinator.

    Args:
        size: how many clients work at a time.
        schemas: of every scope or template of the federation, private ones included.
        rules: the sharing plan as (match, template).
        device: where models live.
        threads: that an actor computes with.
    """

    def __init__(
        self,
        size: int,
        schemas: Mapping[str, ParameterSchema],
        rules: tuple[tuple[str, str], ...],
        device: torch.device,
        threads: int,
    ) -> None:
        self.schemas = schemas
        self._size = size
        self._rules = rules
        self._device = device
        self._threads = threads
        self._actors: list[Any] = []
        self._free: asyncio.Queue[Any] | None = None
        self._reader: Tokenizer | None = None
        self._starting = threading.Lock()
        self._values: dict[str, tuple[int, Reference]] = {}

    def open(self, client: LocalClient, welcome: Welcome, tokenizer: bytes, folder: Path) -> Executor:
        """See `OpenExecutor`."""
        with self._starting:
            if not self._actors:
                self._reader = unpack_tokenizer(tokenizer) if tokenizer else None
                digests = tuple((scope, schema.digest) for scope, schema in self.schemas.items())
                everybody = replace(welcome, rules=self._rules, schema_digests=digests)
                if not ray.is_initialized():
                    cpus = self._size * self._threads
                    ray.init(num_cpus=cpus, include_dashboard=False, log_to_driver=False, logging_level=logging.ERROR)
                actor = ray.remote(num_cpus=self._threads)(ReplicaActor)
                self._actors = [actor.remote(everybody, self._device, self._threads) for _ in range(self._size)]
        return RayExecutor(self, client, welcome, self._reader)

    @asynccontextmanager
    async def borrow(self) -> AsyncIterator[Any]:
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
        version, found = self._values.get(wanted.scope, (wanted.version - 1, None))
        return found if version == wanted.version else None

    def share(self, wanted: ScopeVersion, found: Reference) -> None:
        """Let all clients of a round take these values from the store; older ones of the scope go."""
        self._values[wanted.scope] = wanted.version, found

    def close(self) -> None:
        """End the actors."""
        for actor in self._actors:
            ray.kill(actor)
        self._actors.clear()
        self._values.clear()


class RayExecutor:
    """The executor of a client whose jobs run in actors."""

    def __init__(self, pool: RayPool, client: LocalClient, welcome: Welcome, reader: Tokenizer | None) -> None:
        self._pool = pool
        scopes = tuple(scope for scope, _ in welcome.schema_digests)
        self.schemas = {scope: pool.schemas[Scope.parse(scope).template] for scope in scopes}
        require_capacity(client.computing.trains, self.schemas)
        self._sets = ray.put(prepared(client, welcome, reader))
        self._client = RemoteClient(client.tasks, scopes, client.computing, client.procedure)

    @asynccontextmanager
    async def workspace(self) -> AsyncIterator[Workspace]:
        """See `Executor`."""
        async with self._pool.borrow() as actor:
            yield RayWorkspace(self._pool, actor, self._client, self._sets, self.schemas)


class RayWorkspace:
    """An actor, and the store that it takes weights from."""

    def __init__(
        self,
        pool: RayPool,
        actor: Any,
        client: RemoteClient,
        sets: Reference,
        schemas: Mapping[str, ParameterSchema],
    ) -> None:
        self._pool = pool
        self._actor = actor
        self._client = client
        self._sets = sets
        self._schemas = schemas
        self._values: dict[ScopeVersion, Reference] = {}

    def missing(self, scopes: tuple[ScopeVersion, ...]) -> list[ScopeVersion]:
        """See `Workspace`."""
        self._values = {wanted: found for wanted in scopes if (found := self._pool.reference(wanted)) is not None}
        return [wanted for wanted in scopes if wanted not in self._values]

    async def receive(self, wanted: ScopeVersion, pieces: AsyncIterator[Piece]) -> None:
        """See `Workspace`."""
        scope = Scope.parse(wanted.scope)
        vector = torch.empty(self._schemas[scope.base].size)
        await fill(vector, pieces, wanted.scope)
        found = self._pool.reference(wanted)  # another client may have been faster
        if found is None:
            found = ray.put(vector.numpy())
            if not Scope.parse(scope.base).is_member:
                self._pool.share(wanted, found)
        self._values[wanted] = found

    async def run(self, order: Order, state: ClientState, progress: Progress) -> JobResult:
        """See `Workspace`; an order that is not wanted any more is given up once the actor is done with it."""
        values = [self._values[wanted] for wanted in order.needed]
        try:
            result: JobResult = await self._actor.run.remote(self._client, order, state, self._sets, *values)
        except RayTaskError as error:
            raise error.cause from None
        progress(1.0)
        return result
