"""`--mode compare`: plan all runs, do what is not done yet, and write the comparison."""

from __future__ import annotations

import asyncio
import json
import logging
from collections.abc import Callable, Collection, Sequence
from dataclasses import asdict
from importlib.util import find_spec
from pathlib import Path

from rich.console import Console

from common.config import Config
from common.errors import ConfigError, RunFolderError
from server.runs.run_folder import JOURNAL
from simulation.comparison.methods import ComparedMethod, choose, known_methods
from simulation.comparison.options import DEFAULTS, ComparisonOptions
from simulation.comparison.outcome import Outcome
from simulation.comparison.progress import RunsProgress
from simulation.comparison.result import Comparison, MethodOutcomes, put_together
from simulation.comparison.runs import CarryOut, Rows, is_done, other_run, plan_runs, require_same, work_left
from simulation.comparison.series import MethodRuns, Series
from simulation.comparison.tables import for_console, markdown
from simulation.comparison.tuning import grid
from simulation.population import VirtualClient, population, rows_of, tested_tasks

log = logging.getLogger("fedmtl.compare")


def compare_methods(
    config: Config,
    names: Sequence[str],
    seeds: Sequence[int],
    folder: Path,
    console: Console | None,
    clients: Sequence[VirtualClient] | None = None,
    rows: Rows | None = None,
    carry_out: CarryOut = asyncio.run,
    options: ComparisonOptions = DEFAULTS,
) -> Comparison:
    """Run every method with every seed, unless that is done, and write `comparison.json`, `comparison.md` and pictures.

    Methods that are finished in the folder stay in the comparison, whether or not they are named.

    Args:
        config: rows, population and budget; methods change the rest.
        names: methods, built-in or of `config.compare`.
        seeds: one run of each method per seed.
        folder: `<method>/seed-<n>` in it are the run folders, or `<method>/<setting>/seed-<n>`.
        console: where the tables are shown; None for nowhere.
        clients: who takes part; None for those that `config.simulation` describes.
        rows: of every one of `clients` by task; None for those that the configuration names.
        carry_out: runs a simulation to its end.
        options: what to tune, and what else to tell.

    Raises:
        ConfigError: an unknown method, or one that contradicts the configuration.
        RunFolderError: the folder holds runs with other settings.
        FedMTLError: what went wrong in a run.
    """
    if (folder / JOURNAL).exists():
        raise RunFolderError(f"run_dir: '{folder}' holds a run of its own; choose another --run_dir")
    methods, settings = choose(config, names), grid(options.tune, config)
    who = population(config) if clients is None else clients
    tuned_on = [*(options.tune_seeds or seeds[:1])] if len(settings) > 1 else []

    def planned(chosen: Sequence[ComparedMethod]) -> list[MethodRuns]:
        runs = plan_runs(config, chosen, [*dict.fromkeys([*tuned_on, *seeds])], folder, who, settings)
        named = {method.name: [run for run in runs if run.method is method] for method in chosen}
        return [MethodRuns.of(method, settings, named[method.name], tuned_on, seeds) for method in chosen]

    plans = planned(methods)
    runs = [run for plan in plans for run in plan.runs]
    require_same(runs)
    tested = tested_tasks(config) if rows is None and options.split == "test" else frozenset[str]()
    if rows is None and not all(map(is_done, runs)):
        rows_of(config, who, tested)  # before there is a folder: they may be refused
    progress = RunsProgress(console, sum(plan.work_left for plan in plans))
    series = Series(config.definitions(), carry_out, rows, tested, progress)
    plans += _finished_before(config, names, folder, planned, series)
    options.require([plan.method.name for plan in plans], [*config.tasks])
    found = put_together(config, _outcomes(plans, series, progress), seeds, tested, options)
    _write(found, folder)
    if console is not None:
        console.print(*for_console(found), sep="\n")
    log.info("comparison: %s", folder / "comparison.md")
    return found


def _outcomes(plans: Sequence[MethodRuns], series: Series, progress: RunsProgress) -> list[MethodOutcomes]:
    """What every method comes to with its best setting, seed by seed."""
    tunings = [series.tune(plan) for plan in plans]
    chosen = [plan.chosen(tuning) for plan, tuning in zip(plans, tunings, strict=True)]
    progress.expect(work_left(run for runs in chosen for run in runs))
    outcomes: list[list[Outcome]] = [[] for _ in plans]
    for runs in zip(*chosen, strict=True):
        for run, found in zip(runs, outcomes, strict=True):
            found.append(series.scored(run))
    return [
        MethodOutcomes(plan.method, found, tuning) for plan, found, tuning in zip(plans, outcomes, tunings, strict=True)
    ]


def _finished_before(
    config: Config,
    names: Collection[str],
    folder: Path,
    planned: Callable[[Sequence[ComparedMethod]], list[MethodRuns]],
    series: Series,
) -> list[MethodRuns]:
    """The methods that are not named, and of which nothing is left to do."""
    found = []
    for name, method in known_methods(config).items():
        if name in names or not (folder / name).is_dir():
            continue
        try:
            plan = planned([method])[0]
        except ConfigError as error:
            left_out = error.problems[0]
        else:
            left_out = next(filter(None, map(other_run, plan.runs)), "")
            if not left_out and plan.is_finished(series):
                found.append(plan)
                continue
        log.info("%s stays out of the comparison: %s", name, left_out or "not all of its runs are finished")
    return found


def _write(found: Comparison, folder: Path) -> None:
    body = json.dumps(asdict(found), indent=1, allow_nan=False)
    (folder / "comparison.json").write_text(body + "\n", encoding="utf-8")
    (folder / "comparison.md").write_text(markdown(found, _draw(found, folder)), encoding="utf-8")


def _draw(found: Comparison, folder: Path) -> list[str]:
    """The names of the pictures; none without matplotlib, which is an optional package."""
    if find_spec("matplotlib") is None:
        log.warning("no pictures: install matplotlib (.venv/bin/pip install matplotlib) and repeat; runs are kept")
        return []
    from simulation.comparison.pictures import draw

    return draw(found, folder)
