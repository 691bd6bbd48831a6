"""The runs of a comparison: one simulation per method and seed, or per method, seed and task."""

from __future__ import annotations

import json
import logging
import re
from collections.abc import Callable, Collection, Coroutine, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from itertools import product
from pathlib import Path
from typing import Any

import xxhash

from client.data.examples import TaskData, joined
from common.config import Config, load_config, vary
from common.errors import ConfigError, RunFolderError
from server.core.phases import Phase
from server.reporting.values import Report, from_json
from server.runs.run_folder import CONFIG, JOURNAL
from simulation.app import simulate
from simulation.comparison.methods import ComparedMethod
from simulation.comparison.progress import RunsProgress
from simulation.population import VirtualClient, population, rows_of

Rows = Mapping[str, Mapping[str, TaskData]]
"""Of every client by task."""
CarryOut = Callable[[Coroutine[Any, Any, Report]], Report]
"""Runs a simulation to its end."""

_LEAVES_NO_TRACE = ("server", "compare", "run.name", "run.run_dir", "simulation.workers", "simulation.executor")
"""What may differ between two runs with the same result."""

Setting = Mapping[str, object]
"""Values of the keys that are tuned, by their paths; nothing where none is."""
_PLAIN = re.compile(r"[\w.,=+-]{1,100}")


@dataclass(frozen=True)
class Part:
    """One simulation."""

    config: Config
    sources: tuple[VirtualClient, ...]
    """Those whose rows take part."""
    central: bool = False
    """Whether the first of them has the rows of all."""

    @property
    def clients(self) -> tuple[VirtualClient, ...]:
        """Who takes part."""
        if not self.central:
            return self.sources
        held = {task for client in self.sources for task in client.tasks}
        shares = {task: (1, 1) for task in self.config.tasks if task in held}
        return (VirtualClient(self.sources[0].client_id, shares),)

    @property
    def work(self) -> int:
        """How long it takes, in no particular unit: rounds, each of all tasks of all clients."""
        return self.config.training.num_rounds * sum(len(client.tasks) for client in self.sources)

    def held(self, given: Rows | None, tested: Collection[str] = ()) -> Rows:
        """The rows of the `sources`: those that are given, or that the configuration names.

        Those to score on are of the test split in the tasks that are `tested`.

        Raises:
            DataError: what is missing or wrong, in one line.
        """
        if given is None:
            return rows_of(self.config, self.sources, tested)
        return {c.client_id: {task: given[c.client_id][task] for task in c.tasks} for c in self.sources}

    def rows(self, given: Rows | None) -> Rows | None:
        """The rows of its clients; None where the configuration names them."""
        if not self.central:
            return None if given is None else self.held(given)
        found = self.held(given)
        (one,) = self.clients
        by_task = {task: [mine[task] for mine in found.values() if task in mine] for task in one.tasks}
        return {one.client_id: {task: joined(rows) for task, rows in by_task.items()}}


@dataclass(frozen=True)
class Run:
    """One method with one seed; several parts where each task has a federation of its own."""

    method: ComparedMethod
    seed: int
    parts: tuple[Part, ...]
    setting: Setting = field(default_factory=dict)

    @property
    def title(self) -> str:
        """For a person."""
        values = ", ".join(f"{path}={value}" for path, value in self.setting.items())
        return f"{self.method.name} with {values + ', ' if values else ''}seed {self.seed}"


def plan_runs(
    config: Config,
    methods: Sequence[ComparedMethod],
    seeds: Sequence[int],
    folder: Path,
    clients: Sequence[VirtualClient] | None = None,
    settings: Sequence[Setting] = ({},),
) -> list[Run]:
    """All runs, seed by seed, each method with every setting.

    `clients` take part, or those that the configuration describes. A run is in `<method>/seed-<n>` of the folder, or
    in `<method>/<setting>/seed-<n>`.

    Raises:
        ConfigError: what is wrong with any of them, one line per problem.
    """
    runs: list[Run] = []
    problems: list[str] = []
    who = population(config) if clients is None else clients
    for seed in seeds:
        for method, setting in product(methods, settings):
            place = folder / method.name / _folder_of(setting) / f"seed-{seed}"
            try:
                runs.append(Run(method, seed, _parts(config, method, setting, seed, place, who), setting))
            except ConfigError as error:
                problems += error.problems
    if problems:
        raise ConfigError(*dict.fromkeys(problems))
    return runs


def _folder_of(setting: Setting) -> str:
    name = ",".join(f"{path}={value}" for path, value in setting.items())
    if not name or _PLAIN.fullmatch(name):
        return name
    return f"setting-{xxhash.xxh3_64_hexdigest(name.encode())}"


def _parts(
    config: Config,
    method: ComparedMethod,
    setting: Setting,
    seed: int,
    folder: Path,
    clients: Sequence[VirtualClient],
) -> tuple[Part, ...]:
    common = {**setting, "run.seed": seed, "run.name": f"{method.name}-{seed}"}
    if not method.by_task:
        changed = method.configure(config, {**common, "run.run_dir": str(folder)})
        return (Part(changed, tuple(clients), method.central),)
    parts = []
    for task in config.tasks:
        body = config.tasks[task].model_dump(mode="json", exclude_unset=True) | {"auxiliary": False}
        own = {"run.run_dir": str(folder / task), "tasks": {task: body}, "simulation.tasks_per_client": 1}
        holders = (VirtualClient(c.client_id, {task: c.shares[task]}) for c in clients if task in c.shares)
        parts.append(Part(method.configure(config, {**common, **own}), tuple(holders), method.central))
    return tuple(parts)


def require_same(runs: Sequence[Run]) -> None:
    """Before anything is computed: what lies in the folders belongs to these runs.

    Raises:
        RunFolderError: a folder holds a run of another configuration.
    """
    for difference in filter(None, map(other_run, runs)):
        raise RunFolderError(f"{difference}, choose another --run_dir")


def other_run(run: Run) -> str:
    """How a run in the same folder differs, in a few words; empty if there is none, or it is this one."""
    for part in run.parts:
        folder = part.config.run.folder
        difference = _difference(load_config(folder / CONFIG), part.config) if (folder / CONFIG).is_file() else ""
        if difference:
            return f"{difference}; '{folder}' holds a run with other settings"
    return ""


def perform(part: Part, carry_out: CarryOut, rows: Rows | None, progress: RunsProgress, title: str) -> Report:
    """The report of a simulation, which is carried out if that has not been done.

    `rows` are those of clients by task, if the configuration does not name them; `title` says which run it belongs to.

    Raises:
        FedMTLError: what went wrong.
    """
    report = _finished(part)
    if report is not None:
        return report
    with errors_only(), progress.of(title, part.config.training.num_rounds, part.work) as on_round:
        resume = (part.config.run.folder / JOURNAL).is_file()
        return carry_out(simulate(part.config, resume, None, part.clients, part.rows(rows), on_round))


def is_done(run: Run) -> bool:
    """Whether nothing is left to do for a run."""
    return all(_finished(part) is not None for part in run.parts)


def work_left(runs: Iterable[Run]) -> int:
    """Of the parts that have yet to be done; see `Part.work`."""
    return sum(part.work for run in runs for part in run.parts if _finished(part) is None)


def failure(run: Run) -> str:
    """Why a run failed earlier, or empty."""
    reports = filter(None, map(_report, run.parts))
    return next((report.reason for report in reports if report.status == Phase.FAILED.value), "")


def _finished(part: Part) -> Report | None:
    """The report of a simulation that is over."""
    report = _report(part)
    return report if report is not None and report.status == Phase.FINISHED.value else None


def _report(part: Part) -> Report | None:
    path = part.config.run.folder / "report.json"
    return from_json(Report, json.loads(path.read_text(encoding="utf-8"))) if path.is_file() else None


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
def errors_only() -> Iterator[None]:
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
