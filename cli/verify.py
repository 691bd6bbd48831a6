"""Mode verify: check everything in a run folder."""

from __future__ import annotations

import argparse
from pathlib import Path

from cli.options import Parser
from common.errors import RunFolderError


def options(parser: Parser) -> None:
    """The options of this mode."""
    parser.add_argument("--run_dir", metavar="DIR", required=True, help="run folder to check; it is only read")


def run(options: argparse.Namespace) -> None:
    """Do it."""
    from server.recovery import examine

    findings, whole = examine(Path(options.run_dir))
    if findings:
        raise RunFolderError("\n".join(findings))
    print(f"{options.run_dir}: whole ({whole})")
