"""Where a client's jobs run: the seam between its part in a federation and the models that it computes with."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable, Mapping
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from pathlib import Path
from typing import Protocol

from client.data.examples import PreparedExamples, RawExamples, Tokenizer, prepare
from client.jobs.hiding import RowKeeper
from client.jobs.job import Job, JobResult, require_capacity, run_job
from client.jobs.kept_slice import KeptSlice
from client.jobs.local_client import LocalClient
from client.jobs.precision import PrecisionChoice
from client.jobs.synchronizer import ClientModelSynchronizer
from client.training.compact import Examples
from client.training.loop import Progress, TaskSet
from client.training.work import ClientState
from common.bodies import ScopeVersion
from common.models.packed_tokenizer import unpack_tokenizer
from common.orders import Order, Welcome
from common.parameters.schema import ParameterSchema
from common.ports import Chunk


class Workspace(Protocol):
    """A model and memory for one update: one client's until the update that is made there is handed in."""

    def missing(self, scopes: tuple[ScopeVersion, ...]) -> list[ScopeVersion]:
        """Those of an order's scopes that must be fetched."""
        ...

    async def receive(self, wanted: ScopeVersion, chunks: AsyncIterator[Chunk]) -> None:
        """Take a scope's published values, or those of an anchor, from the coordinator."""
        ...

    async def run(self, order: Order, state: ClientState, progress: Progress) -> JobResult:
        """Carry out an order; see `run_job`."""
        ...


class Executor(Protocol):
    """Runs the jobs of one client in one run."""

    @property
    def schemas(self) -> Mapping[str, ParameterSchema]:
        """Of the client's scopes, private ones included."""
        ...

    def workspace(self) -> AbstractAsyncContextManager[Workspace]:
        """A workspace for as long as the caller needs it; waits for a free one."""
        ...


OpenExecutor = Callable[[LocalClient, Welcome, bytes, Path], Executor]
"""Gets ready for a run: builds or borrows the model and prepares the examples, which may take long.

Called in a thread with the client, the coordinator's welcome, the packed tokenizer and the client's folder of the run.

Raises: `Refused` where the layouts of the two sides differ, or a part of a scope alone would be trained; `WireError`
where the tokenizer cannot be read.
"""


class ThreadWorkspace:
    """A model in this process; a job runs in a thread."""

    def __init__(
        self,
        client: LocalClient,
        replica: ClientModelSynchronizer,
        examples: Callable[[], Examples],
        precision: PrecisionChoice,
        kept: KeptSlice | None = None,
        rows: RowKeeper | None = None,
    ) -> None:
        self._client = client
        self._replica = replica
        self._examples = examples
        self._precision = precision
        self._kept = kept
        self._rows = rows

    def missing(self, scopes: tuple[ScopeVersion, ...]) -> list[ScopeVersion]:
        """See `Workspace`."""
        return self._replica.missing(scopes)

    async def receive(self, wanted: ScopeVersion, chunks: AsyncIterator[Chunk]) -> None:
        """See `Workspace`."""
        await self._replica.receive(wanted, chunks)

    async def run(self, order: Order, state: ClientState, progress: Progress) -> JobResult:
        """See `Workspace`."""
        result = await asyncio.to_thread(self._run, order, state, progress)
        if self._kept is not None:
            await self._kept.keep_if_wanted(order, self._replica.received, result.results, progress)
        return result

    def _run(self, order: Order, state: ClientState, progress: Progress) -> JobResult:
        client = self._client
        job = Job(
            order,
            self._examples(),
            client.capacity,
            self._precision,
            progress,
            client.procedure,
            client.computing.work,
            self._rows,
        )
        return run_job(job, self._replica, state)


class ThreadExecutor:
    """The executor of a client with a model of its own."""

    def __init__(self, client: LocalClient, welcome: Welcome, tokenizer: bytes, folder: Path) -> None:
        """See `OpenExecutor`."""
        wanted = client.computing
        replica = ClientModelSynchronizer(
            welcome, client.tasks, client.device, client.capacity, wanted.limits.check_parameters
        )
        sets = prepared(client, welcome, unpack_tokenizer(tokenizer) if tokenizer else None)
        require_capacity(client.capacity, replica.schemas)
        precision = PrecisionChoice(wanted.precision, folder)
        examples = Examples.of(replica.model, sets, wanted.compact_vocabulary)
        self.schemas = replica.schemas
        kept = KeptSlice(client, welcome, tokenizer, folder) if client.config else None
        rows = RowKeeper(client, welcome.session.run_id, folder.parent)
        self._workspace = ThreadWorkspace(client, replica, lambda: examples, precision, kept, rows)

    @asynccontextmanager
    async def workspace(self) -> AsyncIterator[Workspace]:
        """See `Executor`."""
        yield self._workspace


def prepared(client: LocalClient, welcome: Welcome, tokenizer: Tokenizer | None) -> tuple[TaskSet, ...]:
    """A client's examples of every task, ready for batching."""
    definitions = {task.name: task for task in welcome.tasks}

    def ready(name: str, examples: RawExamples) -> PreparedExamples:
        return prepare(examples, definitions[name], welcome.architecture, tokenizer)

    return tuple(
        TaskSet(definitions[name], ready(name, client.data[name].train), ready(name, client.data[name].validation))
        for name in client.tasks
    )
