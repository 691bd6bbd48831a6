"""What FedMTL costs and how it compares. Each subcommand measures one thing and ends by itself.

Each prints a Markdown table with settings and machine; `--json FILE` appends the same as JSON lines. All traffic stays
on this machine. Figures are medians after a warm-up, with the least and the greatest value in brackets.
"""

from __future__ import annotations

import os

os.environ.setdefault("OMP_NUM_THREADS", "1")  # as the product's command line does, before torch is imported

import argparse
import importlib
from pathlib import Path

from benchmarks.sheet import Sheet

COMMANDS = {
    "memory": "the coordinator's memory with a large model",
    "rounds": "a round in which nobody trains: seconds, processor time, memory, bytes",
}


def main() -> None:
    """Run one subcommand."""
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    commands = parser.add_subparsers(dest="command", required=True, metavar="COMMAND")
    chosen = {}
    for name, line in COMMANDS.items():
        module = importlib.import_module(f"benchmarks.{name}")
        command = commands.add_parser(
            name, help=line, description=module.__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
        )
        command.add_argument("--json", type=Path, metavar="FILE", help="append the results as JSON lines")
        module.add_options(command)
        chosen[name] = module
    options = parser.parse_args()
    settings = {key: value for key, value in vars(options).items() if key not in ("command", "json")}
    with Sheet(options.command, settings, options.json) as sheet:
        chosen[options.command].run(options, sheet)


if __name__ == "__main__":
    main()
