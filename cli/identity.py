"""Mode identity: show the key by which other clients know this one."""

from __future__ import annotations

import argparse
from pathlib import Path

from cli.options import Parser, common_options, configuration
from cli.output import say


def options(parser: Parser) -> None:
    """The options of this mode."""
    common_options(parser)
    parser.add_argument("--client_id", metavar="ID", required=True, help="name of this client")
    parser.add_argument("--state_dir", metavar="DIR", help="what the client keeps (default: .fedmtl)")


def run(options: argparse.Namespace) -> None:
    """Do it."""
    from client.state.identity import folder_of
    from client.state.pins import Pins

    folder = folder_of(Path(configuration(options).client.state_dir), options.client_id)
    say(f"{options.client_id} {Pins(folder, options.client_id).public_key.hex()}")
