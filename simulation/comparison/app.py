"""`--mode compare`: plan all runs, do what is not done yet, and write the comparison."""

from __future__ import annotations

import asyncio
import json
import logging
from collections.abc import Sequence
from dataclasses import asdict
from importlib.util import find_spec
from pathlib import Path
from time import monotonic

from rich.console import Console

from common.config import Config
from common.errors import RunFolderError
from server.runs.run_folder import JOURNAL
from simulation.comparison.methods import choose
from simulation.comparison.outcome import Outcome, outcome_of
from simulation.comparison.result import Comparison, put_together
from simulation.comparison.runs import CarryOut, Rows, is_done, perform, plan_runs, require_same
from simulation.comparison.tables import for_console, markdown
from simulation.population import VirtualClient, population, rows_of

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
) -> Comparison:
    """Run every method with every seed, unless that is done, and write `comparison.json`, `comparison.md` and pictures.

    Args:
        config: rows, population and budget; methods change the rest.
        names: methods, built-in or of `config.compare`.
        seeds: one run of each method per seed.
        folder: `<method>/seed-<n>` in it are the run folders.
        console: where the tables are shown; None for nowhere.
        clients: who takes part; None for those that `config.simulation` describes.
        rows: of every one of `clients` by task; None for those that the configuration names.
        carry_out: runs a simulation to its end.

    Raises:
        ConfigError: an unknown method, or one that contradicts the configuration.
        RunFolderError: the folder holds runs with other settings.
        FedMTLError: what went wrong in a run.
    """
    if (folder / JOURNAL).exists():
        raise RunFolderError(f"run_dir: '{folder}' holds a run of its own; choose another --run_dir")
    methods = choose(config, names)
    who = population(config) if clients is None else clients
    runs = plan_runs(config, methods, seeds, folder, who)
    require_same(runs)
    if rows is None and not all(map(is_done, runs)):
        rows_of(config, who)  # before there is a folder: they may be refused
    outcomes: dict[str, list[Outcome]] = {}
    for number, run in enumerate(runs, start=1):
        started = monotonic()
        reports, worked = perform(run, carry_out, rows)
        outcome = outcome_of(config.definitions(), reports)
        if not outcomes:
            level = logging.WARNING if outcome.encoder.startswith("random") else logging.INFO
            log.log(level, "encoder: %s", outcome.encoder)
        outcomes.setdefault(run.method.name, []).append(outcome)
        said = " ".join(f"{task} {_shown(next(iter(scores.values())))}" for task, scores in outcome.scores.items())
        took = f"{monotonic() - started:.1f} s" if worked else "was done"
        log.info("run %d of %d, %s with seed %d: %s (%s)", number, len(runs), run.method.name, run.seed, said, took)
    found = put_together(config, methods, seeds, outcomes)
    _write(found, folder)
    if console is not None:
        console.print(*for_console(found), sep="\n")
    log.info("comparison: %s", folder / "comparison.md")
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


def _shown(value: float | None) -> str:
    return "-" if value is None else f"{value:.3f}"
