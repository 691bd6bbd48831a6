"""The few real models of a simulation, and the clients that borrow them."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import AsyncIterator, Mapping
from contextlib import AbstractContextManager, asynccontextmanager, nullcontext
from dataclasses import replace
from pathlib import Path
from typing import Protocol

import torch

from client.data.examples import Tokenizer
from client.jobs.executor import Executor, ThreadWorkspace, Workspace, prepared
from client.jobs.hiding import RowKeeper
from client.jobs.job import require_capacity
from client.jobs.kept_slice import KeptSlice
from client.jobs.local_client import LocalClient
from client.jobs.precision import PrecisionChoice
from client.jobs.synchronizer import ClientModelSynchronizer
from client.training.compact import Examples
from common.models.packed_tokenizer import unpack_tokenizer
from common.orders import Welcome
from common.parameters.schema import ParameterSchema
from common.parameters.scope import Scope


class Pool(Protocol):
    """The models that virtual clients share."""

    def open(self, client: LocalClient, welcome: Welcome, tokenizer: bytes, folder: Path) -> Executor:
        """See `OpenExecutor`."""
        ...

    def running(self) -> AbstractContextManager[None]:
        """For as long as clients use them."""
        ...


class Replica:
    """One model for all tasks: what a client needs while it works."""

    def __init__(self, whole: ClientModelSynchronizer) -> None:
        self._whole = whole
        self._parts: dict[tuple[tuple[str, ...], tuple[str, ...]], ClientModelSynchronizer] = {}

    @classmethod
    def of_everybody(
        cls,
        welcome: Welcome,
        schemas: Mapping[str, ParameterSchema],
        rules: tuple[tuple[str, str], ...],
        device: torch.device,
    ) -> Replica:
        """The model of a run's whole plan, whose description is that of any client's welcome."""
        digests = tuple((scope, schema.digest) for scope, schema in schemas.items())
        everybody = replace(welcome, rules=rules, schema_digests=digests)
        return cls(ClientModelSynchronizer(everybody, tuple(task.name for task in welcome.tasks), device))

    def part(self, tasks: tuple[str, ...], scopes: tuple[str, ...]) -> ClientModelSynchronizer:
        """The model as a client with these tasks and scopes sees it."""
        if (tasks, scopes) not in self._parts:
            held = {scope: Scope.parse(scope).template for scope in scopes}
            self._parts[tasks, scopes] = self._whole.part(tasks, held)
        return self._parts[tasks, scopes]


class ModelPool:
    """A fixed number of replicas. They are built when the first client has heard from the coordinator.

    Args:
        size: how many clients work at a time.
        schemas: of every scope or template of the federation, private ones included.
        rules: the sharing plan as (match, template).
        device: where models live.
    """

    def __init__(
        self,
        size: int,
        schemas: Mapping[str, ParameterSchema],
        rules: tuple[tuple[str, str], ...],
        device: torch.device,
    ) -> None:
        self._size = size
        self._rules = rules
        self._schemas = schemas
        self._device = device
        self.replicas: list[Replica] = []
        self._free: list[Replica] | None = None
        self._places = asyncio.Semaphore(size)
        self._reader: Tokenizer | None = None
        self._building = threading.Lock()

    def open(self, client: LocalClient, welcome: Welcome, tokenizer: bytes, folder: Path) -> Executor:
        """See `OpenExecutor`; the model is only looked at."""
        with self._building:
            if not self.replicas:
                self._reader = unpack_tokenizer(tokenizer) if tokenizer else None
                self.replicas = [
                    Replica.of_everybody(welcome, self._schemas, self._rules, self._device) for _ in range(self._size)
                ]
        return PooledExecutor(self, client, welcome, self._reader, folder)

    def running(self) -> AbstractContextManager[None]:
        """See `Pool`; memory is all that they take."""
        return nullcontext()

    @asynccontextmanager
    async def borrow(self) -> AsyncIterator[Replica]:
        """A replica for as long as the caller needs it; waits for a free one."""
        async with self._places:
            if self._free is None:
                self._free = list(self.replicas)
            replica = self._free.pop()
            try:
                yield replica
            finally:
                self._free.append(replica)


class PooledExecutor:
    """The executor of a virtual client: it has examples but no model, and between jobs it holds nothing large."""

    def __init__(
        self, pool: ModelPool, client: LocalClient, welcome: Welcome, reader: Tokenizer | None, folder: Path
    ) -> None:
        self._pool = pool
        self._client = client
        self._kept = KeptSlice(client, welcome, b"", folder, beside_run=True)
        self._sets = prepared(client, welcome, reader)
        self._scopes = tuple(scope for scope, _ in welcome.schema_digests)
        self._precision = PrecisionChoice(client.computing.precision, None)
        self._rows = RowKeeper(client, welcome.session.run_id, folder.parent)
        self.schemas = pool.replicas[0].part(client.tasks, self._scopes).schemas
        require_capacity(client.capacity, self.schemas)

    @asynccontextmanager
    async def workspace(self) -> AsyncIterator[Workspace]:
        """See `Executor`."""
        async with self._pool.borrow() as borrowed:
            replica, compacts = (
                borrowed.part(self._client.tasks, self._scopes),
                self._client.computing.compact_vocabulary,
            )
            yield ThreadWorkspace(
                self._client,
                replica,
                lambda: Examples.of(replica.model, self._sets, compacts),
                self._precision,
                self._kept,
                self._rows,
            )
