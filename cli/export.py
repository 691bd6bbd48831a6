"""Mode export: write a task's model as files that need no FedMTL."""

from __future__ import annotations

import argparse

from cli.options import Parser, path_of
from cli.output import say
from cli.trained import trained_options, trained_task

FORMATS = ("hugging_face", "torch", "onnx")


def options(parser: Parser) -> None:
    """The options of this mode."""
    trained_options(parser)
    parser.add_argument("--task", required=True, help="task to export")
    parser.add_argument("--format", choices=FORMATS, help="default: the first of these that can hold the model")
    parser.add_argument("--out", metavar="DIR", required=True, help="folder to write; must not exist or be empty")


def run(options: argparse.Namespace) -> None:
    """Do it."""
    from client.answers import require_scale
    from common.export.folder import export_task

    found = trained_task(options, {})
    require_scale(found.trained, found.config)
    say(f"{found.trained.task.name}: {found.trained.origin}")
    say(*export_task(found.trained, path_of("out", options.out), options.format, found.facts()))
