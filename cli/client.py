"""Mode client: train on this machine's data."""

from __future__ import annotations

import argparse
import asyncio

from cli.options import Parser, caller_options, common_options, configuration, data_options, names_in


def options(parser: Parser) -> None:
    """The options of this mode."""
    common_options(parser)
    parser.add_argument("--tasks", metavar="A,B", required=True, help="tasks whose data is here")
    parser.add_argument("--client_id", metavar="ID", help="name of this client (default: made and remembered)")
    caller_options(parser)
    data_options(parser)
    parser.add_argument("--state_dir", metavar="DIR", help="what the client keeps (default: .fedmtl)")
    parser.add_argument("--insecure", action="store_true", help="allow another address than loopback without TLS")


def run(options: argparse.Namespace) -> None:
    """Do it."""
    from client.app import take_part

    config = configuration(options, "client")
    asyncio.run(take_part(config, options.client_id, names_in(options.tasks)))
