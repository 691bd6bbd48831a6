"""Mode check: show the configuration, or all its problems, and what a client's rows are."""

from __future__ import annotations

import argparse

from cli.options import Parser, advise, common_options, configuration, data_options, names_in
from cli.output import complain, say
from common.config import Config, protection, render, server_problems
from common.errors import DataError


def options(parser: Parser) -> None:
    """The options of this mode."""
    common_options(parser)
    parser.add_argument("--tasks", metavar="A,B", help="also read these tasks' rows and tell what leaves the client")
    data_options(parser)


def run(options: argparse.Namespace) -> None:
    """Do it."""
    config = configuration(options)
    say(*render(config).splitlines())
    say(f"# Connections to {config.server.host}: {protection(config)}.")
    for problem in server_problems(config):
        complain(f"warning: --mode server refuses this: {problem}")
    advise(config)
    if config.privacy.of_coordinator:
        _tell_noise(config)
    if options.tasks:
        from client.disclosure import what_leaves

        say(*what_leaves(config, names_in(options.tasks)))
    if options.tasks or options.data_dir:
        _read_rows(config, names_in(options.tasks) if options.tasks else list(config.tasks))


def _tell_noise(config: Config) -> None:
    """Print what noise promises and what it costs, scope by scope."""
    from client.disclosure import published_sizes
    from common.privacy.promise import REMEDY, noise_shares, promised

    say(f"Privacy: {promised(config)}.")
    shares = noise_shares(config, published_sizes(config))
    say(*(share.line for share in shares))
    if any(share.ratio > 1 for share in shares):
        complain(f"warning: {REMEDY}")


def _read_rows(config: Config, tasks: list[str]) -> None:
    """Print what the rows of these tasks are.

    Raises:
        DataError: everything that is refused, one line per task.
    """
    from client.app import local_definitions
    from client.data.summary import summary
    from simulation.population import rows_by_site

    say("Rows:")
    refused = []
    for task in local_definitions(config, tasks):
        try:
            for site, rows in rows_by_site(config, task).items():
                say(*([f"at {site}:"] if site else []), *summary(task, rows))
        except DataError as error:
            refused.append(error.message)
    if refused:
        raise DataError("\n".join(refused))
