"""Mode evaluate: score a finished run's model."""

from __future__ import annotations

import argparse
from collections.abc import Mapping
from typing import TYPE_CHECKING

from cli.options import SHORTCUTS, Parser, data_options, names_in, path_of, values_of, version_option
from cli.output import say
from common.config import Config, load_config
from common.errors import DataError
from common.inputs.header import Header
from common.statistics import merge
from common.tasks import TaskDefinition

if TYPE_CHECKING:  # it brings torch
    from client.data.examples import TaskData
    from client.data.splits import ScoredSplit


def options(parser: Parser) -> None:
    """The options of this mode."""
    parser.add_argument("--run_dir", metavar="DIR", required=True, help="run folder with the model")
    version_option(parser)
    parser.add_argument("--tasks", metavar="A,B", help="tasks to score (default: all of the run)")
    parser.add_argument("--set", action="append", default=[], metavar="KEY=VALUE", help="any configuration key; repeat")
    splits = ("validation", "test")
    parser.add_argument("--split", choices=splits, default=splits[0], help="rows to score on (default: %(default)s)")
    data_options(parser)


def run(options: argparse.Namespace) -> None:
    """Do it."""
    from client.app import choose_device, local_definitions
    from client.data.examples import prepare
    from client.training.evaluation import evaluate
    from common.models.packed_tokenizer import unpack_tokenizer
    from server.runs.saved import load_run

    folder = path_of("run_dir", options.run_dir)
    run = load_run(folder, options.version)
    chosen = values_of(options, {flag: SHORTCUTS[flag] for flag in ("data_dir", "partition", "device")})
    config = load_config(folder / "config.yaml", options.set, given=chosen)
    tasks = names_in(options.tasks) if options.tasks else list(config.tasks)
    architecture = run.model.architecture
    tokenizer = unpack_tokenizer(run.model.tokenizer_bytes) if architecture.tokenizer_bytes else None
    run.model.model.to(choose_device(config.client.device))
    best = f", the best by {run.best_by}," if run.best_by else ""
    say(f"model of round {run.version}{best} in {folder}, scored on the rows that the configuration names here")
    batch = config.training.eval_batch_size
    for task in local_definitions(config, tasks):
        run.load_task(task.name)
        found = []
        for site, rows in _rows(config, task, options.split).items():
            _require_header(task.name, run.headers.get(task.name), rows)
            prepared = prepare(rows.validation, task, architecture, tokenizer).scaled(run.scales.get(task.name))
            found.append(evaluate(run.model.model, task, prepared, batch, run.units_of(task.name)))
            where = f"{task.name} at {site}" if site else task.name
            said = f"{len(rows.validation)} {options.split} rows"
            say(f"{where}: {_scores(task.summarise(found[-1]))}; {said}, {rows.origin}")
        if len(found) > 1:
            total = merge(found)
            say(f"{task.name}: {_scores(task.summarise(total))}; {total.examples} in all, of {len(found)} sites")


def _rows(config: Config, task: TaskDefinition, split: ScoredSplit) -> dict[str, TaskData]:
    """The rows of a task by site, or under no name where a run has no sites or a data folder is given.

    Raises:
        DataError: what is missing or wrong, in one line.
    """
    from simulation.population import rows_by_site

    found = rows_by_site(config, task, split)
    for rows in found.values():
        if split == "test" and not len(rows.validation):
            raise DataError(f"{rows.origin}: no test rows of {task.name}; give it a test file")
    return found


def _scores(scores: Mapping[str, float | None]) -> str:
    return ", ".join(f"{name} {_number(value)}" for name, value in scores.items())


def _require_header(task: str, trained: Header | None, rows: TaskData) -> None:
    """Check that the numbers in a row are those that the model was trained on.

    Raises:
        DataError: there are others, or they come in another order.
    """
    for header in rows.headers:
        if trained is not None and not trained.fits(header):
            there, here = trained.beside(header)
            raise DataError(
                f"{rows.origin}: the model was trained on the features {there} of {task}, here are {here}; "
                f"name them in that order in tasks.{task}.columns.features"
            )


def _number(value: float | None) -> str:
    """Four decimals; errors of tiny scores in their own size."""
    if value is None:
        return "-"
    return f"{value:.4f}" if value == 0.0 or abs(value) >= 0.0001 else f"{value:.1e}"
