"""A simulated run from a configuration: run folder, report and progress of a real one, in one process."""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import replace

from rich.console import Console

from client.app import limit_threads, log_columns
from client.data.examples import TaskData
from common.clock import ManualClock
from common.config import Config
from common.errors import FedMTLError, RunFailedError, RunFolderError
from common.orders import FederationStatus
from server.core.dual_facts import Certificate
from server.core.effects import RoundClosed, TaskCosines
from server.core.phases import Phase
from server.core.state import FederationState
from server.engine.coordinator import Coordinator
from server.reporting.progress import RunProgress
from server.reporting.values import Report
from server.runs.app import Resume, open_run, restore_run, write_report
from server.runs.noise import forget_key
from server.runs.run_folder import RunFolder
from server.storage.journal import Journal
from server.storage.models import JournalledModels, ModelFiles
from simulation.inprocess import run_together
from simulation.population import VirtualClient, population, rows_of
from simulation.saved import CLIENTS
from simulation.virtual_clients import FOREVER, VirtualClients, settings_for_simulation

log = logging.getLogger("fedmtl.simulation")

SPARE_THREADS = 4
"""Threads besides those that train: for folding, storing and preparing."""


async def simulate(
    config: Config,
    resume: Resume,
    console: Console | None,
    clients: Sequence[VirtualClient] | None = None,
    rows: Mapping[str, Mapping[str, TaskData]] | None = None,
    on_round: Callable[[int], None] = lambda number: None,
) -> Report:
    """Simulate a federation to its end.

    Args:
        config: the resolved configuration.
        resume: go on with the run in the folder instead of starting one; "auto" does whichever is possible.
        console: where progress is shown; None for the log alone.
        clients: who takes part; None for those that `config.simulation` describes.
        rows: of every one of `clients` by task, by client id; None for those that the configuration names.
        on_round: called with the number of each round that has closed.

    Returns:
        The report, as written to `report.json`.

    Raises:
        RunFailedError: the federation stopped before its last round.
        FedMTLError: what is wrong with the configuration, the model, the data or the run folder.
    """
    limit_threads(config.client.threads)
    who = population(config) if clients is None else clients
    # Before there is a folder, or anything changes in it: they may be refused.
    rows = rows_of(config, who) if rows is None else rows
    told = {(task, data.described, data.notes): data for mine in rows.values() for task, data in mine.items()}
    for (task, *_), data in told.items():
        log_columns(log, task, data)
    async with open_run(config, resume, own_process=False) as (config, folder, journal):
        in_order = population(config) if clients is None else clients
        if in_order != who:  # tasks that joined the run come last
            rows = rows_of(config, in_order)
        return await _run(config, folder, journal, console, in_order, rows, on_round)


async def _run(
    config: Config,
    folder: RunFolder,
    journal: Journal,
    console: Console | None,
    clients: Sequence[VirtualClient],
    rows: Mapping[str, Mapping[str, TaskData]],
    on_round: Callable[[int], None],
) -> Report:
    started, before = time.monotonic(), journal.facts().traffic.seconds
    federation, settings, schemas, state = restore_run(config, folder, journal)
    state = _as_dealt(state, clients)
    settings, federation = settings_for_simulation(settings, len(clients)), replace(federation, poll_seconds=FOREVER)
    asyncio.get_running_loop().set_default_executor(ThreadPoolExecutor(config.simulation.workers + SPARE_THREADS))
    shown = RunProgress(settings.tasks, settings.num_rounds, folder.metrics, console, journal.rounds())
    with shown as progress, _few_words():
        models = JournalledModels(ModelFiles(folder.path, schemas), journal)
        clock = ManualClock()
        coordinator = Coordinator(
            settings, state, federation, journal, models, clock, QuietProgress(progress, on_round)
        )
        virtual = VirtualClients(config, coordinator, clock, schemas, clients, folder.path / CLIENTS, rows=rows)
        log.info("%d virtual clients share %d model(s)", len(clients), config.simulation.workers)
        try:
            with virtual.pool.running():
                await run_together(coordinator, virtual.agents)
        except ExceptionGroup as group:
            if coordinator.state.phase is not Phase.FAILED:
                raise _cause(group) from None
        models.write_out(coordinator.state.completed_rounds)
        seconds = round(before + time.monotonic() - started, 3)
        journal.commit([replace(journal.facts().traffic, seconds=seconds)])
        report = write_report(folder, journal, settings, coordinator.state, coordinator.vectors, schemas)
        forget_key(folder, coordinator.state)
    if coordinator.state.phase is Phase.FAILED:
        raise RunFailedError(coordinator.state.reason)
    return report


def _as_dealt(state: FederationState, clients: Sequence[VirtualClient]) -> FederationState:
    """The state of a resumed run with the tasks that its clients have now: another task in the run deals them anew.

    Raises:
        RunFolderError: somebody of the run is not there any more, and would be waited for.
    """
    dealt = {client.client_id: tuple(sorted(client.tasks)) for client in clients}
    gone = sorted(set(state.clients) - set(dealt))
    if gone:
        raise RunFolderError(f"simulation: {len(dealt)} clients, but the run has '{gone[0]}' too; restore them")
    return replace(state, clients={name: replace(m, tasks=dealt[name]) for name, m in state.clients.items()})


class QuietProgress:
    """Shows rounds, and leaves out whom a run waits for while many clients join: it would say so a thousand times."""

    def __init__(self, progress: RunProgress, on_round: Callable[[int], None] = lambda number: None) -> None:
        self._progress = progress
        self._on_round = on_round

    def notice(self, text: str, warning: bool) -> None:
        """See `Observer`."""
        self._progress.notice(text, warning)

    def withdrew(self) -> None:
        """See `Observer`; simulated clients never ask for it."""

    def changed(self, waiting: bool, describe: Callable[[], FederationStatus]) -> None:
        """See `Observer`."""
        if not waiting:
            self._progress.changed(waiting, describe)

    def closed(
        self, record: RoundClosed, cosines: Sequence[TaskCosines] = (), certificate: Certificate | None = None
    ) -> None:
        """See `Observer`."""
        self._progress.closed(record, cosines, certificate)
        self._on_round(record.round.number)


@contextmanager
def _few_words() -> Iterator[None]:
    """Log rounds, but not what single clients do; what is wrong with one still is."""
    clients, server = logging.getLogger("fedmtl.client"), logging.getLogger("fedmtl.server")
    level = clients.level
    clients.setLevel(logging.ERROR)
    server.addFilter(_of_many)
    try:
        yield
    finally:
        clients.setLevel(level)
        server.removeFilter(_of_many)


def _of_many(record: logging.LogRecord) -> bool:
    return not record.getMessage().startswith(("client ", "order "))


def _cause(group: ExceptionGroup[Exception]) -> Exception:
    """One of our own errors, if there is one among what clients raised."""
    found = list(_leaves(group))
    return next((error for error in found if isinstance(error, FedMTLError)), found[0])


def _leaves(group: ExceptionGroup[Exception]) -> Iterator[Exception]:
    for error in group.exceptions:
        if isinstance(error, ExceptionGroup):
            yield from _leaves(error)
        else:
            yield error
