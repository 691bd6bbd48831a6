"""The runs of a comparison: one simulation per method and seed, or per method, seed and task."""

from __future__ import annotations

import asyncio
import json
import logging
from collections.abc import Callable, Coroutine, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from client.data.examples import TaskData
from common.config import Config, load_config, vary
from common.errors import ConfigError, RunFolderError
from server.core.phases import Phase
from server.reporting.values import Report, from_json
from server.runs.run_folder import CONFIG, JOURNAL
from simulation.app import simulate
from simulation.comparison.methods import ComparedMethod
from simulation.population import VirtualClient, population

Rows = Mapping[str, Mapping[str, TaskData]]
"""Of every client by task."""
CarryOut = Callable[[Coroutine[Any, Any, Report]], Report]
"""Runs a simulation to its end."""

_LEAVES_NO_TRACE = ("server", "compare", "run.name", "run.run_dir", "simulation.workers", "simulation.executor")
"""What may differ between two runs with the same result."""


@dataclass(frozen=True)
class Part:
    """One simulation."""

    config: Config
    clients: tuple[VirtualClient, ...]


@dataclass(frozen=True)
class Run:
    """One method with one seed; several parts where each task has a federation of its own."""

    method: ComparedMethod
    seed: int
    parts: tuple[Part, ...]


def plan_runs(
    config: Config,
    methods: Sequence[ComparedMethod],
    seeds: Sequence[int],
    folder: Path,
    clients: Sequence[VirtualClient] | None = None,
) -> list[Run]:
    """All runs, seed by seed; `clients` take part, or those that the configuration describes.

    Raises:
        ConfigError: what is wrong with any of them, one line per problem.
    """
    runs: list[Run] = []
    problems: list[str] = []
    who = population(config) if clients is None else clients
    for seed in seeds:
        for method in methods:
            try:
                runs.append(Run(method, seed, _parts(config, method, seed, folder / method.name / f"seed-{seed}", who)))
            except ConfigError as error:
                problems += error.problems
    if problems:
        raise ConfigError(*dict.fromkeys(problems))
    return runs


def _parts(
    config: Config, method: ComparedMethod, seed: int, folder: Path, clients: Sequence[VirtualClient]
) -> tuple[Part, ...]:
    common = {"run.seed": seed, "run.name": f"{method.name}-{seed}"}
    if not method.by_task:
        return (Part(method.configure(config, {**common, "run.run_dir": str(folder)}), tuple(clients)),)
    parts = []
    for task in config.tasks:
        body = config.tasks[task].model_dump(mode="json", exclude_unset=True) | {"auxiliary": False}
        own = {"run.run_dir": str(folder / task), "tasks": {task: body}, "simulation.tasks_per_client": 1}
        holders = (VirtualClient(c.client_id, {task: c.shares[task]}) for c in clients if task in c.shares)
        parts.append(Part(method.configure(config, {**common, **own}), tuple(holders)))
    return tuple(parts)


def require_same(runs: Sequence[Run]) -> None:
    """Before anything is computed: what lies in the folders belongs to these runs.

    Raises:
        RunFolderError: a folder holds a run of another configuration.
    """
    for part in (part for run in runs for part in run.parts):
        config, folder = part.config, part.config.run.folder
        difference = _difference(load_config(folder / CONFIG), config) if (folder / CONFIG).is_file() else ""
        if difference:
            raise RunFolderError(f"{difference}; '{folder}' holds a run with other settings, choose another --run_dir")


def perform(run: Run, carry_out: CarryOut = asyncio.run, rows: Rows | None = None) -> tuple[list[Report], bool]:
    """The reports of a run's parts, and whether anything had to be done for them.

    `rows` are those of clients by task, if the configuration does not name them.

    Raises:
        FedMTLError: what went wrong in a simulation.
    """
    reports, worked = [], False
    for part in run.parts:
        report = _finished(part)
        if report is None:
            worked = True
            with _errors_only():
                resume = (part.config.run.folder / JOURNAL).is_file()
                report = carry_out(simulate(part.config, resume, None, part.clients, _held(rows, part)))
        reports.append(report)
    return reports, worked


def _held(rows: Rows | None, part: Part) -> Rows | None:
    """The rows that the clients of a simulation have in it."""
    if rows is None:
        return None
    return {client.client_id: {task: rows[client.client_id][task] for task in client.tasks} for client in part.clients}


def is_done(run: Run) -> bool:
    """Whether nothing is left to do for a run."""
    return all(_finished(part) is not None for part in run.parts)


def _finished(part: Part) -> Report | None:
    """The report of a simulation that is over."""
    path = part.config.run.folder / "report.json"
    if not path.is_file():
        return None
    report = from_json(Report, json.loads(path.read_text(encoding="utf-8")))
    return report if report.status == Phase.FINISHED.value else None


def _difference(before: Config, now: Config) -> str:
    """The first key by which two runs differ in their results, as `path: X, but Y before`."""
    old, new = (vary(config, {}, _LEAVES_NO_TRACE).model_dump(mode="json") for config in (before, now))
    for path, value in _leaves(new, ""):
        was = dict(_leaves(old, "")).get(path)
        if value != was:
            return f"{path}: {value}, but {was} before"
    return ""


def _leaves(body: object, path: str) -> Iterator[tuple[str, object]]:
    if isinstance(body, dict) and body:
        for key, value in body.items():
            yield from _leaves(value, f"{path}.{key}" if path else str(key))
    else:
        yield path, body


@contextmanager
def _errors_only() -> Iterator[None]:
    """Leave out what the rounds of one run say; it is in its folder."""
    loggers = [logging.getLogger(f"fedmtl.{name}") for name in ("server", "simulation", "client")]
    levels = [logger.level for logger in loggers]
    for logger in loggers:
        logger.setLevel(logging.ERROR)
    try:
        yield
    finally:
        for logger, level in zip(loggers, levels, strict=True):
            logger.setLevel(level)
