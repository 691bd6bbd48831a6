"""Mode backup: copy a run so that the copy can go on, also while it runs."""

from __future__ import annotations

import argparse

from cli.options import Parser, path_of
from cli.output import say


def options(parser: Parser) -> None:
    """The options of this mode."""
    parser.add_argument("--run_dir", metavar="DIR", required=True, help="run folder to copy")
    parser.add_argument("--out", metavar="DIR", required=True, help="folder to write; must not exist or be empty")


def run(options: argparse.Namespace) -> None:
    """Do it."""
    from server.runs.backup import back_up

    say(back_up(path_of("run_dir", options.run_dir), path_of("out", options.out)))
