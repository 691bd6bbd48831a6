"""The few real models of a simulation, and the clients that borrow them."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager
from dataclasses import replace
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from client.data.encoding import Reader
from client.model import ClientModelSynchronizer
from client.state.disk import disk
from client.state.store import PendingUpdate, RunStore
from client.training.loop import Progress
from client.worker import Outcome, Worker
from common.models.packed_tokenizer import unpack_tokenizer
from common.orders import Order, OrderKind, Welcome
from common.parameters.schema import ParameterSchema
from common.parameters.scope import Scope


class Bench:
    """One model for all tasks, and the memory of one update: what a client needs while it works."""

    def __init__(self, whole: ClientModelSynchronizer) -> None:
        self.whole = whole
        self.payload = np.empty(0, dtype=np.uint8)
        self._parts: dict[tuple[tuple[str, ...], tuple[str, ...]], ClientModelSynchronizer] = {}

    def part(self, tasks: tuple[str, ...], scopes: tuple[str, ...]) -> ClientModelSynchronizer:
        """The model as a client with these tasks and scopes sees it."""
        if (tasks, scopes) not in self._parts:
            held = {scope: Scope.parse(scope).template for scope in scopes}
            self._parts[tasks, scopes] = self.whole.part(tasks, held)
        return self._parts[tasks, scopes]


class Workshop:
    """A fixed number of benches. They are built when the first client has heard from the coordinator.

    Args:
        benches: how many clients work at a time.
        schemas: of every scope or template of the federation, private ones included.
        rules: the sharing plan as (match, template).
        device: where models live.
    """

    def __init__(
        self,
        benches: int,
        schemas: Mapping[str, ParameterSchema],
        rules: tuple[tuple[str, str], ...],
        device: torch.device,
    ) -> None:
        self._count = benches
        self._rules = rules
        self._digests = tuple((scope, schema.digest) for scope, schema in schemas.items())
        self._device = device
        self.benches: list[Bench] = []
        self._free: list[Bench] | None = None
        self._places = asyncio.Semaphore(benches)
        self._reader: Reader | None = None
        self._building = threading.Lock()

    def open(self, welcome: Welcome, tokenizer: bytes) -> tuple[Bench, Reader | None]:
        """The first bench, and what reads texts; called by every client, from any thread.

        Raises:
            Refused: the layouts of the two sides differ.
            WireError: the tokenizer cannot be read.
        """
        with self._building:
            if not self.benches:
                self._reader = unpack_tokenizer(tokenizer) if tokenizer else None
                everybody = replace(welcome, rules=self._rules, schema_digests=self._digests)
                tasks = tuple(task.name for task in welcome.tasks)
                self.benches = [
                    Bench(ClientModelSynchronizer(everybody, tasks, self._device)) for _ in range(self._count)
                ]
            return self.benches[0], self._reader

    @asynccontextmanager
    async def bench(self) -> AsyncIterator[Bench]:
        """A bench for as long as the caller needs it; waits for a free one."""
        async with self._places:
            if self._free is None:
                self._free = list(self.benches)
            bench = self._free.pop()
            try:
                yield bench
            finally:
                self._free.append(bench)


class VirtualWorker(Worker):
    """A worker that owns rows but no model: it works at a bench, and between orders it holds nothing large."""

    _workshop: Workshop
    _run_id = ""
    _bench: Bench | None = None

    @property
    def _names(self) -> tuple[str, ...]:
        return tuple(task.name for task in self.tasks)

    def enter(self, workshop: Workshop) -> VirtualWorker:
        """Work in this workshop from now on."""
        self._workshop = workshop
        return self

    def prepare(self, welcome: Welcome, tokenizer: bytes) -> ClientModelSynchronizer:
        """See `Worker`; the model is only looked at."""
        bench, reader = self._workshop.open(welcome, tokenizer)
        self._rows = self._encoded(welcome, reader)
        self._data = {}
        self._run_id = welcome.session.run_id
        self._scopes = tuple(scope for scope, _ in welcome.schema_digests)
        return bench.part(self._names, self._scopes)

    def sit_down(self, bench: Bench) -> None:
        """Use a bench for the next order."""
        self._bench = bench
        self.synchronizer = bench.part(self._names, self._scopes)
        self._payload = bench.payload

    def get_up(self) -> None:
        """Leave the bench as it is; the update that was packed there must not be needed any more."""
        assert self._bench is not None
        self._bench.payload = self._payload
        self._bench, self.synchronizer, self._vocabulary = None, None, None
        self._sets, self._whole_sets, self._payload = (), (), _NOTHING

    def execute(self, order: Order, private: Mapping[str, Tensor], progress: Progress) -> Outcome:
        """See `Worker`."""
        self._sets = self._whole_sets = self._rows
        if order.kind is OrderKind.TRAIN and order.training.local_epochs:  # else the whole vocabulary is as good
            self._choose_computing(self._run_id)
        return super().execute(order, private, progress)


_NOTHING = np.empty(0, dtype=np.uint8)


class VirtualStore(RunStore):
    """What a virtual client keeps. A simulation dies as a whole, so nothing is flushed.

    An update without private values is not written either: after a kill it is made again from the same seeds, with the
    same bits. One with private values is, because they become final only after the coordinator's commit.
    """

    def __init__(self, folder: Path) -> None:
        if folder.is_dir():
            super().__init__(folder)
        else:  # most clients never have anything to put there
            self._folder = folder
            self.pending, self.unsettled, self.returning = None, "", False

    def start_private(self, values: Mapping[str, Tensor]) -> None:
        """See `RunStore`."""
        with disk(self._folder):
            self._folder.mkdir(parents=True, exist_ok=True)
        super().start_private(values)

    def save(self, update: PendingUpdate, private: Mapping[str, Tensor]) -> None:
        """Keep an update by its name; its bytes lie at a bench that others will use."""
        if private:
            with disk(self._folder):
                self._folder.mkdir(parents=True, exist_ok=True)
            super().save(update, private)
        self.pending = PendingUpdate(update.header, memoryview(b""))
        self.unsettled = update.header.order_id

    def _retire(self, newest: Path) -> None:
        """Thousands of clients keep no second copy of what a simulation can make again."""

    def _flush(self, descriptor: int) -> None:
        """The operating system has the bytes, and outlives this process."""
