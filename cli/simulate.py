"""Mode simulate: a federation of many clients in one process."""

from __future__ import annotations

import argparse
import asyncio

from cli.options import Parser, advise, common_options, configuration, resume_option, simulation_options
from cli.output import console


def options(parser: Parser) -> None:
    """The options of this mode."""
    common_options(parser)
    simulation_options(parser, "run folder (default: runs/<run.name>)")
    resume_option(parser)


def run(options: argparse.Namespace) -> None:
    """Do it."""
    from simulation.app import simulate

    config = configuration(options, "simulate")
    advise(config)
    asyncio.run(simulate(config, options.resume, console() if options.log_format == "text" else None))
