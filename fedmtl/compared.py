"""Methods and settings side by side, on the same rows that Python code has."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from functools import cached_property
from importlib.util import find_spec
from itertools import product
from math import prod
from pathlib import Path
from statistics import fmean
from typing import Any

from common.config import load_config
from common.errors import ConfigError, FedMTLError, RunFolderError
from common.tasks import is_better
from fedmtl.background import completed
from fedmtl.configured import EncoderChoice, Settings, Tasks, configuration, with_rows_of_functions
from fedmtl.rows import Sites, read, row_shape, unpacked
from fedmtl.run import FinishedRun
from fedmtl.simulated import folder_for, own_threads, simulate
from server.runs.run_folder import CONFIG
from simulation.comparison.app import compare_methods
from simulation.comparison.options import ComparisonOptions
from simulation.comparison.result import Comparison
from simulation.population import VirtualClient

MOST_RUNS = 1000
"""Of a sweep."""


@dataclass(frozen=True)
class FinishedComparison:
    """What a comparison gave; a notebook shows its tables."""

    folder: Path
    """With `comparison.md`, `comparison.json`, pictures, and the run folders."""
    result: Comparison
    """All figures."""

    def _repr_markdown_(self) -> str:
        return (self.folder / "comparison.md").read_text(encoding="utf-8")


def compare(
    tasks: Tasks,
    sites: Sites,
    encoder: EncoderChoice,
    methods: Sequence[str] | Mapping[str, Settings] = ("local", "single_task", "hard"),
    seeds: Sequence[int] = (0, 1, 2),
    settings: Settings | None = None,
    run_dir: str | Path | None = None,
    *,
    tune: Mapping[str, Sequence[object]] | None = None,
    tune_seeds: Sequence[int] = (),
    baseline: Sequence[str] = (),
    mean_of: Mapping[str, Sequence[str]] | None = None,
) -> FinishedComparison:
    """Run methods side by side, with the same rows, seeds and budget, as `fedmtl compare` does.

    Args:
        tasks: as for `simulate`.
        sites: as for `simulate`.
        encoder: as for `simulate`; an instance gives all runs the same initial values, whatever the seed.
        methods: names of methods; or names of your own -> what each changes, such as {"mine": {"sharing.plan": "lg"}},
            among which the name of a method without changes is that method.
        seeds: one run of each method per seed.
        settings: any other keys of the configuration, the same for all.
        run_dir: folder of all runs, new or empty; None: a temporary one.
        tune: keys of the configuration -> values, of which each method gets those that are its best on validation rows.
        tune_seeds: of the runs that decide this; none: the first of `seeds`.
        baseline: methods that gains are against; none: those of local and single_task that are compared.
        mean_of: name -> tasks, of means beside that over all.

    Raises:
        FedMTLError: what is wrong, in a line for each problem.
    """
    parts = unpacked(tasks, sites)
    options = ComparisonOptions(tune or {}, tune_seeds, baseline, mean_of or {})
    own: Mapping[str, Settings] = methods if isinstance(methods, Mapping) else {}
    changes = {name: with_rows_of_functions(changed) for name, changed in own.items() if changed}
    chosen = {"simulation.clients": len(parts), "compare.methods": changes, **(settings or {})}
    config = configuration(tasks, encoder, row_shape(parts), chosen, "simulate")
    clients = [VirtualClient(site, dict.fromkeys(rows, (1, 1))) for site, rows in parts.items()]
    rows = {site: read(config, site, given) for site, given in parts.items()}
    with _new_folder(run_dir) as folder, own_threads():
        found = compare_methods(config, [*methods], seeds, folder, None, clients, rows, completed, options)
    return FinishedComparison(folder, found)


@dataclass(frozen=True)
class Attempt:
    """One row of a sweep."""

    settings: Settings
    scores: Mapping[str, float | None]
    """`<task>/<metric>` of every task's first metric, of the last version; empty where it failed."""
    folder: Path
    """Its run folder."""
    error: str
    """Why it failed, or empty."""
    is_best: bool


@dataclass(frozen=True)
class Sweep:
    """What every combination of settings gave, in the order in which they ran."""

    attempts: tuple[Attempt, ...]

    @property
    def best(self) -> Attempt:
        """The best one; see `sweep`.

        Raises:
            RunFolderError: all of them failed.
        """
        found = next((attempt for attempt in self.attempts if attempt.is_best), None)
        if found is None:
            raise RunFolderError(f"sweep: every run failed; the first one: {self.attempts[0].error}")
        return found

    @cached_property
    def table(self) -> Any:
        """A row per attempt: settings, scores, best, error; a `pandas.DataFrame` where pandas is installed."""
        rows = [
            {**a.settings, **a.scores, "best": a.is_best, "error": a.error, "folder": str(a.folder)}
            for a in self.attempts
        ]
        if find_spec("pandas") is None:
            return rows
        import pandas

        return pandas.DataFrame(rows)


def sweep(
    tasks: Tasks,
    sites: Sites,
    encoder: EncoderChoice,
    over: Mapping[str, Sequence[object]],
    settings: Settings | None = None,
    by: str | None = None,
    run_dir: str | Path | None = None,
) -> Sweep:
    """Train once with every combination of settings, on the same rows; one that fails is a row with its error.

    Args:
        tasks: as for `simulate`.
        sites: as for `simulate`.
        encoder: as for `simulate`.
        over: key of the configuration -> its values.
        settings: any other keys, the same for all.
        by: what the best one is the best in, `<task>/<metric>`, where the metric is the task's first; None: of all
            tasks, the least mean place in the order by first metric.
        run_dir: folder of all runs, new or empty; None: a temporary one.

    Raises:
        FedMTLError: the rows cannot be read, or `over` or `by` names nothing.
    """
    unpacked(tasks, sites)
    count = prod(map(len, over.values()))
    if not over or not 0 < count <= MOST_RUNS:
        said = f"{count} combinations" if over else "no keys"
        raise ConfigError(f"over: {said}; name keys with their values, 1 to {MOST_RUNS} combinations")
    attempts = []
    with _new_folder(run_dir) as folder:
        for number, values in enumerate(product(*over.values()), start=1):
            changed, place = dict(zip(over, values, strict=True)), folder / str(number)
            try:
                run = simulate(tasks, sites, encoder, {**(settings or {}), **changed}, place)
            except FedMTLError as error:
                attempts.append(Attempt(changed, {}, place, error.message.splitlines()[0], False))
            else:
                attempts.append(Attempt(changed, _last_scores(run), place, "", False))
    best = _best([attempt.scores for attempt in attempts], by)
    return Sweep(tuple(replace(attempt, is_best=place == best) for place, attempt in enumerate(attempts)))


def _last_scores(run: FinishedRun) -> dict[str, float | None]:
    """Every task's first metric of the last version."""
    tasks = load_config(run.folder / CONFIG).definitions()
    found = {task.name: run.report.tasks[task.name].metrics for task in tasks}
    return {f"{task.name}/{task.metrics[0]}": found[task.name][task.metrics[0]] for task in tasks}


def _best(scores: Sequence[Mapping[str, float | None]], by: str | None) -> int | None:
    """Which one has the least mean place in the order by each metric, or by one; of equal ones the first."""
    metrics = list(dict.fromkeys(metric for found in scores for metric in found))
    if by is not None and metrics and by not in metrics:
        raise ConfigError(f"by: '{by}' is no task with its first metric; there are {', '.join(metrics)}")
    places: dict[int, float] = {}
    for number, found in enumerate(scores):
        if found:
            wanted = metrics if by is None else [by]
            places[number] = fmean(
                _place(metric, found[metric], [each.get(metric) for each in scores]) for metric in wanted
            )
    return min(places, key=lambda number: places[number], default=None)


def _place(metric: str, value: float | None, all_values: Sequence[float | None]) -> int:
    """How many are better; those without a value come last."""
    name = metric.rpartition("/")[2]
    if value is None:
        return len(all_values)
    return sum(other is not None and is_better(name, other, value) for other in all_values)


@contextmanager
def _new_folder(run_dir: str | Path | None) -> Iterator[Path]:
    """The folder of several runs; see `folder_for`.

    Raises:
        RunFolderError: it is not empty.
    """
    with folder_for(run_dir) as folder:
        if folder.exists() and (not folder.is_dir() or any(folder.iterdir())):
            raise RunFolderError(f"run_dir: '{folder}' exists and is not empty; choose another")
        yield folder
