"""A coordinator from a configuration: run folder, model, journal, service, and the report at the end."""

from __future__ import annotations

import asyncio
import ctypes
import json
import logging
import secrets
from collections.abc import AsyncIterator, Callable, Mapping, Sequence
from contextlib import asynccontextmanager, closing
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, TypeAlias

from rich.console import Console

from common.clock import AwakeClock, SystemClock
from common.config import Config, load_config, render
from common.errors import RunFailedError, RunFolderError
from common.log_fields import about
from common.methods.choice import described
from common.parameters.schema import ParameterSchema
from common.standardising import InputScale
from common.stopping import asking, at_hang_up
from common.targets import TargetUnits
from common.tls import TlsFiles
from server.core.best import recalled
from server.core.effects import ScaleFixed, UnitsFixed
from server.core.facts import RunBegan, RunConfiguration
from server.core.phases import Phase
from server.core.state import FederationState, RunSettings
from server.engine.coordinator import Coordinator, Federation
from server.reporting.progress import RunProgress
from server.reporting.report import build_report
from server.reporting.shares import influence_of
from server.reporting.values import Report, to_json
from server.runs.assembly import make_federation, make_settings
from server.runs.digest import model_digest
from server.runs.extension import grow, same_federation
from server.runs.list_again import ListAgain
from server.runs.noise import charges_before, first_ledger, forget_key, key_of
from server.runs.own_process import done_in_own_process
from server.runs.recovery import fall_back, mend_files, note_files
from server.runs.run_folder import RunFolder
from server.runs.withdrawals import write_withdrawals
from server.service.connections import connection_limit, raise_file_limit
from server.service.grpc_server import require_free, start_server
from server.storage.journal import Journal
from server.storage.models import JournalledModels, ModelFiles

log = logging.getLogger("fedmtl.server")

Resume: TypeAlias = 'bool | Literal["auto"]'

if TYPE_CHECKING:  # it brings torch, which a coordinator at work does not need
    from server.runs.preparation import NewHeads

TICK_SECONDS = 0.5
NOTABLE_SECONDS = 2.0
"""A pause of the whole process that is worth a line in the log."""
GOODBYE_SECONDS = 5.0
"""How long clients may take to hear that the run is over before the coordinator closes its port."""
DRAIN_SECONDS = 10.0
M_ARENA_MAX = -8
"""A name of glibc's `malloc.h`."""


async def serve(
    config: Config,
    resume: Resume,
    console: Console | None,
    on_listening: Callable[[int], None] | None = None,
    own_process: bool = True,
    asked: asyncio.Event | None = None,
    lift: Sequence[str] = (),
    again: Callable[[], Config] | None = None,
) -> Report:
    """Run a federation to its end.

    Args:
        config: the resolved configuration.
        resume: go on with the run in the folder instead of starting one; "auto" does whichever is possible.
        console: where progress is shown; None for the log alone.
        on_listening: called with the port number as soon as clients can connect.
        own_process: see `begin_run`.
        asked: once it is set, the run stops in good order, as after a signal.
        lift: clients whose quarantine ends.
        again: reads the configuration again at SIGHUP, of which the list of clients counts from then on.

    Returns:
        The report, as written to `report.json`.

    Raises:
        RunFailedError: the federation stopped before its last round.
        FedMTLError: what is wrong with the configuration, the model or the run folder.
    """
    _use_one_arena()
    connection_limit(config.server.max_connections, raise_file_limit())  # before anything is written
    require_free(config.server.host, config.server.port)
    async with open_run(config, resume, own_process) as (config, folder, journal):
        lift_quarantine(journal, lift)
        return await _run(config, folder, journal, console, on_listening, asked or asyncio.Event(), ListAgain(again))


@asynccontextmanager
async def open_run(
    config: Config, resume: Resume, own_process: bool = True
) -> AsyncIterator[tuple[Config, RunFolder, Journal]]:
    """A run, a new one or one to go on with: its configuration, tasks in their order, its folder and its journal.

    `own_process`: see `begin_run`.

    Raises:
        RunFolderError: there is a run already, or none to go on with, or another one.
    """
    if resume == "auto":
        resume = RunFolder.exists(config.run.folder)
    folder = RunFolder.resume(config.run.folder) if resume else RunFolder.create(config.run.folder)
    with closing(folder), closing(Journal(folder.journal)) as journal:
        if journal.facts().began is None:
            folder.require_untrained()
            await asyncio.to_thread(begin_run, config, folder, journal, own_process)
        else:
            await asyncio.to_thread(mend_files, folder, journal)
            await asyncio.to_thread(fall_back, folder, journal)
            config = await asyncio.to_thread(continue_run, config, folder, journal, own_process)
            journal.commit([_settings(config)])
        yield config, folder, journal


def lift_quarantine(journal: Journal, clients: Sequence[str]) -> None:
    """Let clients take part again, as if nothing of theirs had been refused.

    Raises:
        RunFolderError: one is not in quarantine.
    """
    conduct = journal.facts().conduct
    for name in clients:
        if name not in conduct.quarantined:
            inside = f"those are {', '.join(sorted(conduct.quarantined))}" if conduct.quarantined else "nobody is"
            raise RunFolderError(f"--lift: '{name}' is not in quarantine, {inside}; leave it out")
        conduct = conduct.without(name)
    if clients:
        journal.commit([conduct])
        log.info("no longer in quarantine: %s", ", ".join(clients))


def _use_one_arena() -> None:
    """Let all threads share one heap (glibc): with one each, gRPC's threads keep hundreds of megabytes in chunks."""
    mallopt = getattr(ctypes.CDLL(None), "mallopt", None)
    if mallopt is not None:
        mallopt(M_ARENA_MAX, 1)


def begin_run(config: Config, folder: RunFolder, journal: Journal, own_process: bool = True) -> None:
    """Make everything that a run starts from; the journal learns of it last.

    With `own_process` the model is made in a process of its own, which ends, unless this one has torch already.
    """
    folder.write(folder.config, render(config).encode())
    log.info("run '%s' begins in %s; its initial model is made", config.run.name, folder.path)
    prepare = partial(_prepare, config, folder.path)
    origin, summary, units, scales = done_in_own_process(prepare) if own_process else prepare()
    log.log(logging.WARNING if origin.startswith("random") else logging.INFO, "encoder: %s", origin)
    for line in summary.splitlines():
        log.info("%s", line)
    note_files(folder, journal)
    began = RunBegan(secrets.token_hex(6), config.run.name, config.run.seed, origin)
    fixed = [UnitsFixed(task, found) for task, found in units.items()]
    scaled = [ScaleFixed(task, found) for task, found in scales.items()]
    ledger = first_ledger(config, charges_before(config))
    if ledger is not None:
        key_of(folder)
    journal.commit([began, _settings(config), *fixed, *scaled, *([ledger] if ledger is not None else [])])


def _settings(config: Config) -> RunConfiguration:
    """What the report says of the configuration; a resumed run may train in another way than before."""
    sections = {
        "training": config.training,
        "aggregation": config.aggregation,
        "guard": config.guard,
        "blend": config.blend,
        "secure_aggregation": config.secure_aggregation,
    }
    said = {name: json.dumps(found.model_dump(mode="json")) for name, found in sections.items()}
    return RunConfiguration(config.sharing.plan, {**said, "relation": json.dumps(described(config.relation))})


def continue_run(config: Config, folder: RunFolder, journal: Journal, own_process: bool = True) -> Config:
    """The configuration to go on with: a resumed run is the same federation, to which tasks may have been added.

    `own_process`: see `begin_run`; here new heads are made.

    Raises:
        RunFolderError: something else differs that must stay, or the run is over and tasks would come too late.
    """
    before = load_config(folder.config)
    config = same_federation(before, config, folder.config)
    if before.training != config.training or before.federation != config.federation:
        log.warning("training or federation settings differ from the run's first ones; the new ones hold from now on")
    added = [name for name in config.tasks if name not in before.tasks]
    if not added:
        return config
    state = journal.restore((), 0.0)
    if state.phase is Phase.FINISHED and state.completed_rounds >= config.training.num_rounds:
        late = f"the run is over after {state.completed_rounds} rounds; raise training.num_rounds to train it"
        raise RunFolderError(f"tasks.{added[0]}: {late}")
    prepare = partial(_prepare_heads, config, folder.path, added)
    new = done_in_own_process(prepare) if own_process else prepare()
    grow(config, before, new, folder, journal)
    log.info("tasks that join this run: %s", ", ".join(added))
    for line in new.summary.splitlines():
        log.info("%s", line)
    return config


def _prepare(config: Config, path: Path) -> tuple[str, str, Mapping[str, TargetUnits], Mapping[str, InputScale]]:
    """Called in the other process, if there is one; only there is torch imported."""
    from server.runs.preparation import prepare_run

    prepared = prepare_run(config, path)
    return prepared.origin, prepared.summary, prepared.units, prepared.scales


def _prepare_heads(config: Config, path: Path, added: Sequence[str]) -> NewHeads:
    from server.runs.preparation import prepare_heads

    return prepare_heads(config, path, added)


async def _run(
    config: Config,
    folder: RunFolder,
    journal: Journal,
    console: Console | None,
    on_listening: Callable[[int], None] | None,
    asked: asyncio.Event,
    listed: ListAgain,
) -> Report:
    began = _began(journal)
    federation, settings, schemas, state = restore_run(config, folder, journal)
    write_withdrawals(folder, journal, state)

    def withdrew() -> None:
        write_withdrawals(folder, journal, coordinator.state)

    shown = RunProgress(settings.tasks, settings.num_rounds, folder.metrics, console, journal.rounds(), withdrew)
    with shown as progress, asking(asked.set), at_hang_up(listed.ask):
        models = JournalledModels(ModelFiles(folder.path, schemas), journal)
        clock = AwakeClock(SystemClock(), 2 * TICK_SECONDS)
        coordinator = Coordinator(settings, state, federation, journal, models, clock, progress)
        tls = config.server.tls
        paths = (Path(name) if name else None for name in (tls.certificate, tls.key, tls.client_ca))
        files = TlsFiles(*paths) if tls.certificate else None
        await coordinator.start()  # before anybody can call: deadlines count from here
        most = connection_limit(config.server.max_connections, raise_file_limit())
        server = await start_server(coordinator, config.server.host, config.server.port, files, most)
        try:
            name, run_id, host, port = began.name, began.run_id, config.server.host, server.port_number
            listening = about(event="listening", run=run_id, port=port, round=state.completed_rounds)
            log.info("run '%s' (%s) listens on %s:%d", name, run_id, host, port, extra=listening)
            if config.server.insecure:
                log.warning("INSECURE: no TLS; models and updates travel in the clear and anybody may join")
            if on_listening is not None:
                on_listening(port)
            await _until_over(coordinator, clock, asked, listed)
            models.write_out(coordinator.state.completed_rounds)
            report = write_report(folder, journal, settings, coordinator.state, coordinator.vectors, schemas)
            await _say_goodbye(coordinator)
        finally:
            await server.stop(grace=1.0)
        forget_key(folder, coordinator.state)
    if coordinator.state.phase is Phase.FAILED:
        raise RunFailedError(coordinator.state.reason)
    return report


def restore_run(
    config: Config, folder: RunFolder, journal: Journal
) -> tuple[Federation, RunSettings, dict[str, ParameterSchema], FederationState]:
    """What the run folder says: for a new run and after a crash alike."""
    architecture, schemas = folder.read_description()
    key = key_of(folder) if config.privacy.of_coordinator else b""
    settings = make_settings(config, _began(journal).run_id, schemas, folder.read_unread(), key)
    state = journal.restore(settings.schemas, settings.round_timeout_seconds)
    state = replace(state, scored=recalled(settings, state.fallback_tasks, journal.scored_rounds()))
    if state.ledger is not None:
        folder.drop_after(state.completed_rounds)
    tokenizer, initial = folder.tokenizer.read_bytes(), ModelFiles(folder.path, schemas).read_private()
    federation = make_federation(config, architecture, schemas, tokenizer, initial, key)
    strategy = replace(federation.strategy, folder=folder.path / "updates")
    return replace(federation, strategy=strategy), settings, schemas, state


def _began(journal: Journal) -> RunBegan:
    began = journal.facts().began
    assert began is not None, "the run has not begun"
    return began


async def _until_over(coordinator: Coordinator, clock: AwakeClock, asked: asyncio.Event, listed: ListAgain) -> None:
    """Keep time until the run ends, or drain it as soon as somebody asked for that."""
    loop = asyncio.get_running_loop()
    over = asyncio.ensure_future(coordinator.writer.ended())
    deadline: float | None = None
    lost = clock.lost
    try:
        while not over.done():
            await asyncio.wait((over,), timeout=TICK_SECONDS)
            if over.done():
                break
            await _tick(coordinator, clock)
            await listed.tick(coordinator)
            if clock.lost - lost > NOTABLE_SECONDS:
                log.warning("stood still for %.0f s, which count for no lease and no deadline", clock.lost - lost)
            lost = clock.lost
            if asked.is_set() and deadline is None:
                deadline = loop.time() + DRAIN_SECONDS
                log.warning(
                    "stopping: no further round is opened; at most %g s for the updates under way", DRAIN_SECONDS
                )
                await coordinator.drain()
            if deadline is not None and loop.time() >= deadline:
                return
        over.result()
    finally:
        over.cancel()


async def _tick(coordinator: Coordinator, clock: AwakeClock) -> None:
    """Let time take effect; the clock is looked at also while the tick waits for its turn."""
    tick = asyncio.ensure_future(coordinator.tick())
    while not tick.done():
        await asyncio.wait((tick,), timeout=TICK_SECONDS)
        clock.now()
    tick.result()


async def _say_goodbye(coordinator: Coordinator) -> None:
    """Let the clients that are here hear the end before the port closes."""
    try:
        async with asyncio.timeout(GOODBYE_SECONDS):
            await coordinator.everybody_heard()
    except TimeoutError:
        log.info("some clients did not ask again; they will find the port closed")


def write_report(
    folder: RunFolder,
    journal: Journal,
    settings: RunSettings,
    state: FederationState,
    vectors: Any,
    schemas: dict[str, ParameterSchema],
) -> Report:
    """Write `report.json` from the journal and give it back."""
    digest = model_digest((scope, schemas[scope].digest, [vector.data.cast("B")]) for scope, vector in vectors.items())
    status = state.phase.value if state.phase in (Phase.FINISHED, Phase.FAILED) else "interrupted"
    facts = journal.facts()
    rounds, clients = journal.rounds(), journal.clients()
    influence = influence_of(settings, rounds, journal.totals())
    best = recalled(settings, state.fallback_tasks, journal.scored_rounds(), asked=True).best
    measured = journal.cosines(), journal.relations(), journal.guarded(), influence, best, journal.certificates()
    report = build_report(facts, state.completed_rounds, settings.tasks, rounds, clients, status, digest, *measured)
    path = folder.write_json("report.json", to_json(report))
    write_withdrawals(folder, journal, state)
    done = about(event="report_written", run=settings.run_id, round=state.completed_rounds, reason=status)
    log.info("%s after %d rounds; model %s; report: %s", status, state.completed_rounds, digest[:16], path, extra=done)
    return report
