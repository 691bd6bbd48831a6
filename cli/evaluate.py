"""Mode evaluate: score a finished run's model."""

from __future__ import annotations

import argparse
from pathlib import Path

from cli.options import Parser, data_options, names_in, setting
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

    run = load_run(Path(options.run_dir))
    given = vars(options)
    chosen = [setting(f, given[f]) for f in ("data_dir", "partition", "device") if given[f]]
    config = load_config(Path(options.run_dir) / "config.yaml", [*options.set, *chosen])
    tasks = names_in(options.tasks) if options.tasks else list(config.tasks)
    architecture = run.model.architecture
    reader = unpack_tokenizer(run.model.tokenizer_bytes) if architecture.tokenizer_bytes else None
    run.model.model.to(choose_device(config.client.device))
    say(f"model of round {run.version} in {options.run_dir}, scored on the rows that the configuration names here")
    for task in local_definitions(config, tasks):
        run.load_task(task.name)
        rows = load_data(config, [task])[task.name]
        encoded = encode(rows.validation, task, reader, architecture.encoding, architecture.max_length)
        found = evaluate(run.model.model, task, encoded, config.training.eval_batch_size, run.units_of(task.name))
        scores = summarise(task, found)
        text = ", ".join(f"{name} {_number(value)}" for name, value in scores.items())
        say(f"{task.name}: {text}; {len(rows.validation)} validation rows, {rows.origin}")


def _number(value: float | None) -> str:
    """Four decimals; errors of tiny scores in their own size."""
    if value is None:
        return "-"
    return f"{value:.4f}" if value == 0.0 or abs(value) >= 0.0001 else f"{value:.1e}"
