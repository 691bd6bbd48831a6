"""A client daemon from a configuration: identity, data, device, and an agent on a gRPC channel."""

from __future__ import annotations

import logging
import os
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

import torch

from client.agent import Agent
from client.data.columns import ColumnNames
from client.data.examples import TaskData
from client.data.hub import HubSet
from client.data.request import DataRequest
from client.data.sources import load
from client.data.splits import ScoredSplit, SplitRule
from client.jobs.local_client import Computing, local_client
from client.jobs.solve import WorkShare
from client.limits import Limits
from client.state.identity import claim
from client.training.work import Procedure
from client.transport.connection import open_port
from common.capabilities import Capacity
from common.config import Config, render
from common.config.data_section import SplitSection
from common.config.task_section import ColumnsSection, HubSetSection
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


def load_data(
    config: Config, definitions: Sequence[TaskDefinition], scored: ScoredSplit = "validation"
) -> dict[str, TaskData]:
    """Read this client's rows of every task, those to score on of the split `scored`.

    Raises:
        DataError: what is missing or wrong, in one line.
    """
    return {task.name: load(data_request(config, task, scored)) for task in definitions}


def data_request(config: Config, task: TaskDefinition, scored: ScoredSplit = "validation") -> DataRequest:
    """What the configuration says about this client's rows of a task."""
    section = config.tasks.get(task.name)
    named = (section.columns if section is not None else None) or ColumnsSection()
    return DataRequest(
        task=task,
        source=config.data.source,
        folder=Path(config.data.dir) if config.data.dir else None,
        dataset=_hub_set(section.dataset) if section is not None else None,
        columns=ColumnNames(named.text, named.text_pair, named.label, named.features or (), config.data.split.by),
        train_samples=section.train_samples if section is not None else None,
        val_samples=section.val_samples if section is not None else None,
        partition=config.data.part or (1, 1),
        seed=config.run.seed,
        inputs=config.model.inputs.name,
        encoder=config.model.array_encoder,
        statistics=config.data.statistics,
        augmentation=config.data.augment,
        split=_rule(config.data.split),
        scored=scored,
    )


def _hub_set(section: HubSetSection | None) -> HubSet | None:
    return None if section is None else HubSet(**section.model_dump())


def _rule(section: SplitSection) -> SplitRule | None:
    rule = SplitRule(section.validation, section.test, section.by, section.stratify)
    return rule if rule.validation or rule.test else None


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
    noise = config.row_noise()
    keeps = config.privacy.of_rows and config.privacy.keeps_scores
    sums = config.secure_aggregation.terms
    return Limits(**config.client.limits.model_dump(), row_noise=noise, keeps_scores=keeps, sums=sums)


def members_of(config: Config) -> Path | None:
    """The file with all clients' identities, where they are pinned."""
    section = config.secure_aggregation
    return Path(section.members) if section.pinned and section.members is not None else None


async def take_part(
    config: Config,
    client_id: str | None,
    tasks: Sequence[str],
    procedure: Procedure | None = None,
    rows: Mapping[str, TaskData] | None = None,
    on_start: Callable[[Agent], None] = lambda agent: None,
) -> None:
    """Be one client of a federation until it is over.

    Args:
        config: the resolved configuration.
        client_id: the client's name; None for one that is made and remembered.
        tasks: those whose rows are here.
        procedure: takes the place of the one that orders name.
        rows: of these tasks; None for those that the configuration names.
        on_start: called with the agent before it joins.

    Raises:
        FedMTLError: what is wrong with data or configuration, a refusal, or a coordinator that stays silent.
    """
    section, limits = config.client, limits_of(config)
    config.model.allow_encoder()
    limit_threads(section.threads)
    device = choose_device(section.device)
    definitions = local_definitions(config, tasks)
    data = load_data(config, definitions) if rows is None else rows
    for name, own in data.items():
        said = f"{len(own.train)} training, {len(own.validation)} validation rows, {own.origin}"
        log.info("%s: %s", name, said, extra=about(event="data_read", task=name, rows=len(own.train)))
        log_columns(log, name, own)
    with claim(Path(section.state_dir), client_id, tasks) as identity:
        log.info("client '%s' trains on %s with %d thread(s)", identity.client_id, device, section.threads)
        capacity = Capacity(section.trains, section.layers)
        computing = Computing(
            section.compact_vocabulary,
            section.precision,
            capacity,
            limits,
            WorkShare(*section.work_range()),
            config.privacy.of_rows,
            members_of(config),
        )
        client = local_client(
            identity.client_id, definitions, data, device, config.data.source, procedure, computing, render(config)
        )
        port = open_port(config, identity.client_id, section.connect_timeout_seconds)
        agent = Agent(port, client, identity.folder)
        on_start(agent)
        try:
            with asking(agent.stop) as request:
                await agent.run()
        finally:
            await port.close()
    if request.noticed:  # a thread may still build or tokenise what nobody needs any more
        end_within(ENDING_SECONDS, 0)
