"""A client daemon from a configuration: identity, data, device, and an agent on a gRPC channel."""

from __future__ import annotations

import logging
import os
from collections.abc import Sequence
from pathlib import Path

import torch

from client.agent import Agent
from client.data.columns import ColumnNames
from client.data.examples import TaskData
from client.data.request import DataRequest
from client.data.sources import load
from client.jobs.local_client import Computing, local_client
from client.limits import Limits
from client.state.identity import claim
from client.training.work import Procedure
from client.transport.connection import open_port
from common.capabilities import Capacity
from common.config import Config
from common.errors import ConfigError
from common.log_fields import about
from common.stopping import ENDING_SECONDS, asking, end_within
from common.tasks import KNOWN_TASKS, TaskDefinition

log = logging.getLogger("fedmtl.client")


def local_definitions(config: Config, tasks: Sequence[str]) -> list[TaskDefinition]:
    """This client's own understanding of its tasks.

    Raises:
        ConfigError: a task is neither in the configuration nor well known.
    """
    found = []
    for name in tasks:
        if name in config.tasks:
            found.append(config.tasks[name].definition(name))
        elif name in KNOWN_TASKS:
            found.append(KNOWN_TASKS[name])
        else:
            known = ", ".join(sorted({*config.tasks, *KNOWN_TASKS}))
            raise ConfigError(f"--tasks: '{name}' is unknown; known are {known}; define others under tasks:")
    return found


def load_data(config: Config, definitions: Sequence[TaskDefinition]) -> dict[str, TaskData]:
    """Read this client's rows of every task.

    Raises:
        DataError: what is missing or wrong, in one line.
    """
    return {task.name: load(data_request(config, task)) for task in definitions}


def data_request(config: Config, task: TaskDefinition) -> DataRequest:
    """What the configuration says about this client's rows of a task."""
    section = config.tasks.get(task.name)
    named = section.columns if section is not None else None
    return DataRequest(
        task=task,
        source=config.data.source,
        folder=Path(config.data.dir) if config.data.dir else None,
        columns=ColumnNames(named.text, named.text_pair, named.label, named.features or ()) if named else None,
        train_samples=section.train_samples if section is not None else None,
        val_samples=section.val_samples if section is not None else None,
        partition=config.data.part or (1, 1),
        seed=config.run.seed,
        inputs=config.model.inputs.name,
        encoder=config.model.array_encoder,
        standardise=config.data.standardise,
    )


def log_columns(log: logging.Logger, task: str, data: TaskData) -> None:
    """Say which column of a task is what, and what may not be meant."""
    if data.described:
        log.info("%s: columns: %s", task, data.described)
    for note in data.notes:
        log.warning("%s", note)


def choose_device(wanted: str) -> torch.device:
    """The device to train on.

    Raises:
        ConfigError: CUDA was asked for and is not there.
    """
    if wanted == "cuda" and not torch.cuda.is_available():
        raise ConfigError("client.device: 'cuda' is not available here; use auto or cpu")
    return torch.device("cuda" if wanted != "cpu" and torch.cuda.is_available() else "cpu")


def limit_threads(count: int) -> None:
    """Use `count` threads for computing, and as many for tokenising, which would otherwise take every core."""
    torch.set_num_threads(count)
    os.environ.setdefault("RAYON_NUM_THREADS", str(count))


def limits_of(config: Config) -> Limits:
    """What a coordinator may ask of this client."""
    return Limits(**config.client.limits.model_dump())


async def take_part(
    config: Config, client_id: str | None, tasks: Sequence[str], procedure: Procedure | None = None
) -> None:
    """Be one client of a federation until it is over.

    Raises:
        FedMTLError: what is wrong with data or configuration, a refusal, or a coordinator that stays silent.
    """
    section, limits = config.client, limits_of(config)
    config.model.allow_encoder()
    limit_threads(section.threads)
    device = choose_device(section.device)
    definitions = local_definitions(config, tasks)
    data = load_data(config, definitions)
    for name, rows in data.items():
        said = f"{len(rows.train)} training, {len(rows.validation)} validation rows, {rows.origin}"
        log.info("%s: %s", name, said, extra=about(event="data_read", task=name, rows=len(rows.train)))
        log_columns(log, name, rows)
    with claim(Path(section.state_dir), client_id, tasks) as identity:
        log.info("client '%s' trains on %s with %d thread(s)", identity.client_id, device, section.threads)
        computing = Computing(
            section.compact_vocabulary, section.precision, Capacity(section.trains, section.layers), limits
        )
        client = local_client(identity.client_id, definitions, data, device, config.data.source, procedure, computing)
        port = open_port(config, identity.client_id, section.connect_timeout_seconds)
        agent = Agent(port, client, identity.folder)
        try:
            with asking(agent.stop) as request:
                await agent.run()
        finally:
            await port.close()
    if request.noticed:  # a thread may still build or tokenise what nobody needs any more
        end_within(ENDING_SECONDS, 0)
