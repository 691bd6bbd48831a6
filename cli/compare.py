"""Mode compare: methods side by side, to see whether sharing helps."""

from __future__ import annotations

import argparse
from pathlib import Path

from cli.options import Parser, advise, common_options, configuration, names_in, simulation_options
from cli.output import console
from common.config import values_in_list
from common.errors import ConfigError


def options(parser: Parser) -> None:
    """The options of this mode."""
    common_options(parser, "--seeds", "one run of each method per seed (default: 0,1,2)", "N,M")
    parser.add_argument("--methods", metavar="A,B", default="local,single_task,hard", help="default: %(default)s")
    tuned = "run each method with every value and keep its best on validation rows; repeat for a grid"
    parser.add_argument("--tune", action="append", default=[], metavar="KEY=V,W", help=tuned)
    parser.add_argument(
        "--tune_seeds", metavar="N,M", help="seeds of the runs that tune (default: the first of --seeds)"
    )
    against = "methods that gains are against (default: local and single_task, if they are compared)"
    parser.add_argument("--baseline", metavar="A,B", help=against)
    some = "a mean over some tasks, beside that over all; repeat"
    parser.add_argument("--mean_of", action="append", default=[], metavar="NAME=A,B", help=some)
    scored = "rows that scores are of (default: %(default)s, of tasks that have some)"
    parser.add_argument("--split", choices=("test", "validation"), default="test", help=scored)
    simulation_options(parser, "folder of all runs (default: runs/compare-<run.name>)")


def run(options: argparse.Namespace) -> None:
    """Do it."""
    from simulation.comparison.app import compare_methods
    from simulation.comparison.options import ComparisonOptions

    names = names_in(options.methods, "--methods", "methods, such as local,hard")
    asked = ComparisonOptions(
        {
            key: values_in_list(text, f"--tune: {key}")
            for key, text in _named(options.tune, "--tune", "KEY=V,W").items()
        },
        _seeds(options.tune_seeds, "--tune_seeds") if options.tune_seeds else (),
        names_in(options.baseline, "--baseline", "methods, such as local,hard") if options.baseline else (),
        {
            name: names_in(text, f"--mean_of: {name}")
            for name, text in _named(options.mean_of, "--mean_of", "NAME=A,B").items()
        },
        options.split,
    )
    seeds = _seeds(options.seeds or "0,1,2", "--seeds")
    config = configuration(options, "simulate")
    advise(config)
    folder = config.run.folder if config.run.run_dir else Path("runs") / f"compare-{config.run.name}"
    shown = console() if options.log_format == "text" else None
    compare_methods(config, names, seeds, folder, shown, options=asked)


def _seeds(text: str, flag: str) -> list[int]:
    seeds = names_in(text, flag, "seeds, such as 0,1,2")
    if not all(seed.isdecimal() for seed in seeds):
        raise ConfigError(f"{flag}: '{text}' must be whole numbers of 0 or more, such as 0,1,2")
    return [*map(int, seeds)]


def _named(given: list[str], flag: str, form: str) -> dict[str, str]:
    """What stands behind the name of each."""
    found: dict[str, str] = {}
    for text in given:
        name, equals, rest = (part.strip() for part in text.partition("="))
        if not name or not equals or not rest:
            raise ConfigError(f"{flag}: '{text}' is not of the form {form}")
        if name in found:
            raise ConfigError(f"{flag}: {name} is given twice; write all of it once")
        found[name] = rest
    return found
