"""Mode leave: ask a running server to leave a client out for good."""

from __future__ import annotations

import argparse
import asyncio

from cli.options import Parser, caller_options, common_options, configuration
from cli.output import say


def options(parser: Parser) -> None:
    """The options of this mode."""
    common_options(parser)
    caller_options(parser)
    parser.add_argument(
        "--client_id", metavar="ID", required=True, help="name of the client, which may never come back"
    )
    parser.add_argument("--insecure", action="store_true", help="allow another address than loopback without TLS")


def run(options: argparse.Namespace) -> None:
    """Do it."""
    from client.status import withdraw

    asyncio.run(withdraw(configuration(options, "client"), options.client_id))
    say(
        f"client '{options.client_id}' is left out for good, and may not join this run again",
        f"What it handed in stays in the models; the run folder names it in withdrawn/{options.client_id}.json.",
    )
