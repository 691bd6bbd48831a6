"""Mode evaluate: score a finished run's model, or a client's."""

from __future__ import annotations

import argparse
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING

from cli.options import SHORTCUTS, Parser, data_options, names_in, path_of, values_of
from cli.output import say
from cli.trained import kept_slice, names_client, require_run, trained_options
from common.config import Config, load_config, vary
from common.errors import DataError
from common.inputs.header import Header
from common.statistics import merge
from common.tasks import TaskDefinition

if TYPE_CHECKING:  # it brings torch
    from client.data.examples import TaskData
    from client.data.splits import ScoredSplit


def options(parser: Parser) -> None:
    """The options of this mode."""
    trained_options(parser)
    parser.add_argument("--tasks", metavar="A,B", help="tasks to score (default: all of the run, or of the client)")
    splits = ("validation", "test")
    parser.add_argument("--split", choices=splits, default=splits[0], help="rows to score on (default: %(default)s)")
    data_options(parser)


def run(options: argparse.Namespace) -> None:
    """Do it."""
    if names_client(options):
        _score_client(options)
    else:
        require_run(options)
        _score_run(options)


def _score_run(options: argparse.Namespace) -> None:
    from client.app import choose_device, local_definitions
    from client.data.examples import prepare
    from client.training.evaluation import evaluate
    from common.models.packed_tokenizer import unpack_tokenizer
    from server.runs.saved import load_run

    folder = path_of("run_dir", options.run_dir)
    run = load_run(folder, options.version)
    config = _config(options, folder / "config.yaml")
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


def _score_client(options: argparse.Namespace) -> None:
    from client.app import choose_device, load_data, local_definitions
    from client.data.examples import prepare
    from client.training.evaluation import evaluate
    from common.models.packed_tokenizer import unpack_tokenizer
    from simulation.population import rows_of_client

    kept = kept_slice(options)
    config = _config(options, kept.config)
    for task in local_definitions(config, names_in(options.tasks) if options.tasks else kept.description.tasks):
        trained = kept.trained(config, task.name, options.model)
        # On the scale of the client's training rows, whichever rows are read here.
        read = config if trained.scale is None else vary(config, {"data.statistics": "none"})
        if options.state_dir is not None or options.data_dir is not None:
            rows = load_data(read, [task], options.split)[task.name]
        else:
            rows = rows_of_client(read, options.client_id, task, options.split)
        _require_rows(task, options.split, rows)
        _require_header(task.name, trained.header, rows)
        given = rows.validation if trained.scale is None else rows.validation.on_scale(trained.scale)
        tokenizer = unpack_tokenizer(trained.tokenizer) if trained.tokenizer else None
        model = trained.model.to(choose_device(config.client.device))
        prepared = prepare(given, task, model.architecture, tokenizer).scaled(trained.common_scale)
        found = evaluate(model, task, prepared, config.training.eval_batch_size, trained.units)
        say(f"{task.name}: {trained.origin}")
        say(f"{task.name}: {_scores(task.summarise(found))}; {len(given)} {options.split} rows, {rows.origin}")


def _config(options: argparse.Namespace, path: Path) -> Config:
    """The one that a model was trained with, as the command line changes it."""
    chosen = values_of(options, {flag: SHORTCUTS[flag] for flag in ("data_dir", "partition", "device")})
    return load_config(path, options.set, given=chosen)


def _rows(config: Config, task: TaskDefinition, split: ScoredSplit) -> dict[str, TaskData]:
    """The rows of a task by site, or under no name where a run has no sites or a data folder is given.

    Raises:
        DataError: what is missing or wrong, in one line.
    """
    from simulation.population import rows_by_site

    found = rows_by_site(config, task, split)
    for rows in found.values():
        _require_rows(task, split, rows)
    return found


def _require_rows(task: TaskDefinition, split: ScoredSplit, rows: TaskData) -> None:
    """Check that test rows are there where they were asked for.

    Raises:
        DataError: they are not.
    """
    if split == "test" and not len(rows.validation):
        raise DataError(f"{rows.origin}: no test rows of {task.name}; give it a test file")


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
