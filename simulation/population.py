"""Who takes part in a simulation, and which rows are whose."""

from __future__ import annotations

from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from client.app import data_request, load_data
from client.data.examples import TaskData
from client.data.partitions import deal
from client.data.request import DataRequest
from client.data.sources import has_test_rows, is_there, load
from client.data.splits import ScoredSplit
from common.config import Config
from common.errors import DataError
from common.methods.partitions import DirichletPartition
from common.tasks import TaskDefinition


@dataclass(frozen=True)
class VirtualClient:
    """One client. `shares` maps each of its tasks to (i, n): its rows are the i-th of n parts, counted from 1."""

    client_id: str
    shares: Mapping[str, tuple[int, int]]

    @property
    def tasks(self) -> tuple[str, ...]:
        """The names of its tasks."""
        return tuple(self.shares)


def population(config: Config) -> list[VirtualClient]:
    """The clients that `simulation` describes: its sites, or else client-1 and so on, which share the rows of a task.

    Raises:
        DataError: a site's folder is missing or has none of the tasks, or a task has no site.
    """
    return _sites(config) if config.simulation.sites else _sharing(config)


def _sites(config: Config) -> list[VirtualClient]:
    """A client per site, with the tasks of which its folder has files."""
    definitions, clients = config.definitions(), []
    for site, folder in config.simulation.sites.items():
        if not Path(folder).is_dir():
            raise DataError(f"simulation.sites.{site}: folder {folder} does not exist; give the site's folder")
        held = [task.name for task in definitions if is_there(_at_site(config, site, task))]
        if not held:
            names = ", ".join(task.name for task in definitions)
            raise DataError(f"simulation.sites.{site}: {folder} has no files of {names}; put those of one there")
        clients.append(VirtualClient(site, dict.fromkeys(held, (1, 1))))
    for task in definitions:
        if not any(task.name in client.shares for client in clients):
            raise DataError(f"simulation.sites: no site has files of {task.name}; give some, or leave the task out")
    return clients


def site_rows(
    config: Config, task: TaskDefinition, sites: Iterable[str], scored: ScoredSplit = "validation"
) -> dict[str, TaskData]:
    """The rows of a task at each of these sites, which have some; those to score on are of the split `scored`.

    Raises:
        DataError: what is missing or wrong, in one line.
    """
    return {site: load(_at_site(config, site, task, scored)) for site in sites}


def rows_by_site(config: Config, task: TaskDefinition, scored: ScoredSplit = "validation") -> dict[str, TaskData]:
    """The rows of a task at every site that has some; under no name where there are no sites, or a folder is given.

    Raises:
        DataError: what is missing or wrong, in one line.
    """
    if not config.simulation.sites or config.data.dir is not None:
        return {"": load_data(config, [task], scored)[task.name]}
    holders = [client.client_id for client in population(config) if task.name in client.shares]
    return site_rows(config, task, holders, scored)


def rows_of_client(
    config: Config, client_id: str, task: TaskDefinition, scored: ScoredSplit = "validation"
) -> TaskData:
    """The rows of a task that a client of a simulation has; those to score on are of the split `scored`.

    Raises:
        DataError: what is missing or wrong, in one line.
    """
    found = {client.client_id: client.shares for client in population(config)}.get(client_id, {})
    if task.name not in found:
        raise DataError(f"--client_id: {client_id} has no rows of {task.name} in this configuration; name a --data_dir")
    if config.simulation.sites:
        return site_rows(config, task, [client_id], scored)[client_id]
    number, parts = found[task.name]
    return deal(data_request(config, task, scored), parts, _alpha(config))[number - 1]


def _alpha(config: Config) -> float | None:
    """How unevenly rows are dealt out; None: evenly."""
    partition = config.simulation.partition
    return partition.alpha if isinstance(partition, DirichletPartition) else None


def _at_site(config: Config, site: str, task: TaskDefinition, scored: ScoredSplit = "validation") -> DataRequest:
    return replace(data_request(config, task, scored), folder=Path(config.simulation.sites[site]))


def _sharing(config: Config) -> list[VirtualClient]:
    """Client i holds `tasks_per_client` tasks from the i-th on, in turns.

    Ids are `client-1` and so on, with as many digits as the last one needs.
    """
    section, tasks = config.simulation, list(config.tasks)
    held = [
        [tasks[(number + step) % len(tasks)] for step in range(section.tasks_per_client)]
        for number in range(section.clients)
    ]
    parts = {task: sum(task in mine for mine in held) for task in tasks}
    given = dict.fromkeys(tasks, 0)
    digits = len(str(section.clients))
    clients = []
    for number, mine in enumerate(held, start=1):
        for task in mine:
            given[task] += 1
        clients.append(VirtualClient(f"client-{number:0{digits}}", {task: (given[task], parts[task]) for task in mine}))
    return clients


def tested_tasks(config: Config) -> frozenset[str]:
    """The tasks with rows of a test split, at every site that has the task.

    Raises:
        DataError: their data cannot be found.
    """
    found = []
    for task in config.definitions():
        requests = [data_request(config, task)]
        if config.simulation.sites:
            holders = (client.client_id for client in population(config) if task.name in client.shares)
            requests = [_at_site(config, site, task) for site in holders]
        if all(map(has_test_rows, requests)):
            found.append(task.name)
    return frozenset(found)


def rows_of(
    config: Config, clients: Sequence[VirtualClient], tested: Collection[str] = ()
) -> dict[str, dict[str, TaskData]]:
    """Every client's rows by task, by client id. A task's rows are read once, whoever shares them.

    Rows to score on are of the test split in the tasks that are `tested`, else of the validation split.

    Raises:
        DataError: what is missing or wrong, in one line.
    """
    alpha = _alpha(config)
    found: dict[str, dict[str, TaskData]] = {client.client_id: {} for client in clients}
    for task in config.definitions():
        scored: ScoredSplit = "test" if task.name in tested else "validation"
        if config.simulation.sites:
            holders = [client.client_id for client in clients if task.name in client.shares]
            for site, rows in site_rows(config, task, holders, scored).items():
                found[site][task.name] = rows
            continue
        for parts in sorted({client.shares[task.name][1] for client in clients if task.name in client.shares}):
            dealt = deal(data_request(config, task, scored), parts, alpha)
            for client in clients:
                number, of = client.shares.get(task.name, (0, 0))
                if of == parts:
                    found[client.client_id][task.name] = dealt[number - 1]
    return found
