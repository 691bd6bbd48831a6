"""Mode check: show the configuration, or all its problems."""

from __future__ import annotations

import argparse

from cli.options import Parser, advise, common_options, configuration, data_options, names_in
from cli.output import say
from common.config import render


def options(parser: Parser) -> None:
    """The options of this mode."""
    common_options(parser)
    parser.add_argument("--tasks", metavar="A,B", help="also tell what would leave a client with these tasks")
    data_options(parser)


def run(options: argparse.Namespace) -> None:
    """Do it."""
    config = configuration(options)
    say(*render(config).splitlines())
    advise(config)
    if options.tasks:
        from client.disclosure import what_leaves

        say(*what_leaves(config, names_in(options.tasks)))
