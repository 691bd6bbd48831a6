"""Mode evaluate: score a finished run's model."""

from __future__ import annotations

import argparse

from cli.options import SHORTCUTS, Parser, data_options, names_in, path_of, values_of
from cli.output import say
from common.config import load_config


def options(parser: Parser) -> None:
    """The options of this mode."""
    parser.add_argument("--run_dir", metavar="DIR", required=True, help="run folder with the model")
    parser.add_argument("--tasks", metavar="A,B", help="tasks to score (default: all of the run)")
    parser.add_argument("--set", action="append", default=[], metavar="KEY=VALUE", help="any configuration key; repeat")
    data_options(parser)


def run(options: argparse.Namespace) -> None:
    """Do it."""
    from client.app import choose_device, load_data, local_definitions
    from client.data.encoding import encode
    from client.training.evaluation import evaluate
    from common.metrics import summarise
    from common.models.packed_tokenizer import unpack_tokenizer
    from server.saved import load_run

    folder = path_of("run_dir", options.run_dir)
    run = load_run(folder)
    chosen = values_of(options, {flag: SHORTCUTS[flag] for flag in ("data_dir", "partition", "device")})
    config = load_config(folder / "config.yaml", options.set, given=chosen)
    tasks = names_in(options.tasks) if options.tasks else list(config.tasks)
    architecture = run.model.architecture
    reader = unpack_tokenizer(run.model.tokenizer_bytes) if architecture.tokenizer_bytes else None
    run.model.model.to(choose_device(config.client.device))
    say(f"model of round {run.version} in {folder}, scored on the rows that the configuration names here")
    for task in local_definitions(config, tasks):
        run.load_task(task.name)
        rows = load_data(config, [task])[task.name]
        encoded = encode(rows.validation, task, reader, architecture.encoding, architecture.max_length)
        scores = summarise(task, evaluate(run.model.model, task, encoded, config.training.eval_batch_size))
        text = ", ".join(f"{name} {'-' if value is None else f'{value:.4f}'}" for name, value in scores.items())
        say(f"{task.name}: {text}; {len(rows.validation)} validation rows, {rows.origin}")
