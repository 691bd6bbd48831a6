"""Mode status: ask a running server who is there."""

from __future__ import annotations

import argparse
import asyncio

from cli.options import Parser, caller_options, common_options, configuration
from cli.output import say


def options(parser: Parser) -> None:
    """The options of this mode."""
    common_options(parser)
    caller_options(parser)
    parser.add_argument("--format", choices=("text", "json"), default="text", help="for people or machines")
    parser.add_argument("--insecure", action="store_true", help="allow another address than loopback without TLS")


def run(options: argparse.Namespace) -> None:
    """Do it."""
    from client.status import as_json, as_lines, ask_status

    status = asyncio.run(ask_status(configuration(options, "client")))
    say(*([as_json(status)] if options.format == "json" else as_lines(status)))
