"""Mode export: write a task's model as a Hugging Face folder."""

from __future__ import annotations

import argparse

from cli.options import Parser, path_of, version_option
from cli.output import say


def options(parser: Parser) -> None:
    """The options of this mode."""
    parser.add_argument("--run_dir", metavar="DIR", required=True, help="run folder with the model")
    version_option(parser)
    parser.add_argument("--task", required=True, help="task to export")
    parser.add_argument("--out", metavar="DIR", required=True, help="folder to write; must not exist or be empty")


def run(options: argparse.Namespace) -> None:
    """Do it."""
    from server.runs.export import export_task
    from server.runs.saved import load_run

    run = load_run(path_of("run_dir", options.run_dir), options.version)
    run.load_task(options.task)
    say(*export_task(run.model, options.task, path_of("out", options.out), run.units_of(options.task)))
