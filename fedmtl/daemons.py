"""A coordinator, and clients of one in any process, from Python code: as `fedmtl server` and `fedmtl client`."""

from __future__ import annotations

import asyncio
import tempfile
import threading
from collections.abc import Collection, Mapping
from pathlib import Path

from client.agent import Agent
from client.app import take_part
from client.transport.connection import open_port
from common.config import Config, load_config
from common.errors import ConfigError
from common.inputs.arrays import encoder_described
from common.inputs.table import input_described
from common.orders import Description
from common.tasks import KNOWN_TASKS, TaskDefinition
from fedmtl.background import Background, Running
from fedmtl.configured import EncoderChoice, Settings, Tasks, configuration
from fedmtl.rows import Given, of_site, read
from fedmtl.run import FinishedRun
from fedmtl.simulated import own_threads
from server.runs.app import serve as run_coordinator

ADDRESS = "127.0.0.1:50051"


class RunningCoordinator(Running[FinishedRun]):
    """A coordinator at work beside this code."""

    address: str
    """HOST:PORT where it listens."""


def serve(
    tasks: Tasks,
    encoder: EncoderChoice,
    address: str = ADDRESS,
    *,
    shape: tuple[int, ...] = (),
    settings: Settings | None = None,
    run_dir: str | Path | None = None,
    resume: bool = False,
    wait: bool = True,
) -> RunningCoordinator:
    """Be the coordinator of a run until it is over; clients are of `join`, or of `fedmtl client`.

    Args:
        tasks: as for `simulate`.
        encoder: as for `simulate`.
        address: HOST:PORT to listen on; port 0: any free one.
        shape: of a row of numbers, such as (4,), where the encoder does not say it.
        settings: any other keys of the configuration; without server.tls only this machine may call.
        run_dir: folder of the run; None: a temporary one.
        resume: go on with the run in it.
        wait: return when the run is over, else as soon as clients can connect. `.wait()` gives the finished run.

    Raises:
        FedMTLError: what is wrong, in a line for each problem; or the run stopped early.
        KeyboardInterrupt: somebody ended it; no round is lost, and `resume` goes on.
    """
    host, _, port = address.rpartition(":")
    if not host or not port.isdecimal():
        raise ConfigError(f"address: '{address}' is not HOST:PORT; write e.g. {ADDRESS}")
    folder = tempfile.mkdtemp(prefix="fedmtl-") if run_dir is None else str(run_dir)
    place = {"server.host": host.strip("[]"), "server.port": int(port), "run.run_dir": folder}
    config = configuration(tasks, encoder, shape, {**place, "model.keep.best": "mean", **(settings or {})}, "server")
    asked, ready, ports = asyncio.Event(), threading.Event(), [int(port)]

    def listening(number: int) -> None:
        ports.append(number)
        ready.set()

    async def work() -> FinishedRun:
        try:
            report = await run_coordinator(config, resume, None, listening, own_process=False, asked=asked)
        finally:
            ready.set()
        return FinishedRun(Path(folder), report)

    running = RunningCoordinator(Background(work()), asked.set, ready)
    running.address = f"{host}:{ports[-1]}"
    if wait or len(ports) == 1:
        running.wait()
    return running


def join(
    server: str,
    tasks: Mapping[str, Given],
    client_id: str | None = None,
    *,
    encoder: EncoderChoice | None = None,
    settings: Settings | None = None,
    wait: bool = True,
) -> Running[None]:
    """Be a client of a federation until it is over, with rows that Python code has.

    What the tasks are, and what reads their rows, the coordinator says; rows that do not fit are refused before anybody
    trains. Rows stay here: docs/use/privacy.md lists what leaves.

    Args:
        server: HOST:PORT of the coordinator, which need not be there yet.
        tasks: name -> rows, as for `simulate`.
        client_id: the client's name; None for one that is made and remembered.
        encoder: where the federation's encoder is a module of one's own: the same module, as for `simulate`.
        settings: keys of the configuration, such as {"client.tls.ca": "ca.pem", "client.state_dir": "state"}.
        wait: return when the run is over; else once the rows are read.

    Raises:
        FedMTLError: what is wrong, a refusal, or a coordinator that stays silent.
        KeyboardInterrupt: somebody ended it; the client has said goodbye.
    """
    chosen = {"client.server": server, **(settings or {})}
    known: dict[str, object] = {"tasks": {next(iter(KNOWN_TASKS)): {}}, "data.source": "given"}  # not known yet
    calling = load_config(None, role="client", given={**known, **_of_client(chosen)})
    agents: list[Agent] = []
    ready = threading.Event()

    def started(agent: Agent) -> None:
        agents.append(agent)
        ready.set()

    async def work() -> None:
        try:
            port = open_port(calling, client_id or "python", calling.client.connect_timeout_seconds)
            async with port:
                found = await port.describe()
            given = of_site(client_id or "here", [task.name for task in found.tasks], tasks)
            config = _as_described(found, given, encoder, chosen)
            with own_threads():
                rows = await asyncio.to_thread(read, config, client_id or "here", given)
                await take_part(config, client_id, [*given], rows=rows, on_start=started)
        finally:
            ready.set()

    def stop() -> None:
        for agent in agents:
            agent.stop()

    running = Running(Background(work()), stop, ready)
    if wait or not agents:
        running.wait()
    return running


def _of_client(settings: Settings) -> Settings:
    """Those that say how to call; the rest needs the coordinator's answer."""
    return {key: value for key, value in settings.items() if key.split(".")[0] == "client"}


def _as_described(
    found: Description, tasks: Collection[str], encoder: EncoderChoice | None, settings: Settings
) -> Config:
    """The configuration of a client that has these tasks of a federation, and takes its word for the rest."""
    described = found.architecture.encoder_config
    sections = {task.name: _section(task) for task in found.tasks if task.name in tasks}
    if not input_described(described).encoder_types:
        return configuration(sections, next(iter(KNOWN_TASKS)), (), settings, "client")
    row = encoder_described(described)
    if not row.own_code:
        return configuration(sections, {row.name: row.values()}, row.row_shape, settings, "client")
    if encoder is None:
        raise ConfigError("encoder: the federation has a module of its own; give the same one: join(..., encoder=...)")
    config = configuration(sections, encoder, row.row_shape, settings, "client")
    own = config.model.array_encoder
    if own is None or own.describe() != described:
        raise ConfigError("encoder: it differs in code, arguments or shapes from the federation's; give the same one")
    return config


def _section(task: TaskDefinition) -> dict[str, object]:
    """A task as a configuration says it."""
    section: dict[str, object] = {"type": str(task.type), "metrics": [*task.metrics]}
    if task.labels:
        section["labels"] = [*task.labels]
    return section | {"class_weights": task.class_weights}
