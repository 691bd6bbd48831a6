"""Mode compare: methods side by side, to see whether sharing helps."""

from __future__ import annotations

import argparse
from pathlib import Path

from cli.options import Parser, advise, common_options, configuration, names_in, simulation_options
from cli.output import console
from common.errors import ConfigError


def options(parser: Parser) -> None:
    """The options of this mode."""
    common_options(parser, "--seeds", "one run of each method per seed (default: 0,1,2)", "N,M")
    parser.add_argument("--methods", metavar="A,B", default="local,single_task,hard", help="default: %(default)s")
    simulation_options(parser, "folder of all runs (default: runs/compare-<run.name>)")


def run(options: argparse.Namespace) -> None:
    """Do it."""
    from simulation.comparison.app import compare_methods

    names = names_in(options.methods, "--methods", "methods, such as local,hard")
    seeds = names_in(options.seeds or "0,1,2", "--seeds", "seeds, such as 0,1,2")
    if not all(seed.isdecimal() for seed in seeds):
        raise ConfigError(f"--seeds: '{options.seeds}' must be whole numbers of 0 or more, such as 0,1,2")
    config = configuration(options, "simulate")
    advise(config)
    folder = config.run.folder if config.run.run_dir else Path("runs") / f"compare-{config.run.name}"
    compare_methods(config, names, [*map(int, seeds)], folder, console() if options.log_format == "text" else None)
