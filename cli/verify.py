"""Mode verify: check everything in a run folder."""

from __future__ import annotations

import argparse

from cli.options import Parser, path_of
from cli.output import say
from common.errors import RunFolderError


def options(parser: Parser) -> None:
    """The options of this mode."""
    parser.add_argument("--run_dir", metavar="DIR", required=True, help="run folder to check; it is only read")


def run(options: argparse.Namespace) -> None:
    """Do it."""
    from server.runs.recovery import examine

    folder = path_of("run_dir", options.run_dir)
    findings, whole = examine(folder)
    if findings:
        raise RunFolderError("\n".join(findings))
    say(f"{folder}: whole ({whole})")
