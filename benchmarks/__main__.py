"""What FedMTL costs and how it compares. Each subcommand measures one thing and ends by itself.

Each prints a Markdown table with settings and machine; `--json FILE` appends the same as JSON lines. All traffic stays
on this machine. Figures are medians after a warm-up, with the least and the greatest value in brackets.
"""

from __future__ import annotations

import os

os.environ.setdefault("OMP_NUM_THREADS", "1")  # as the product's command line does, before torch is imported

import argparse
import importlib
import sys
from collections.abc import Sequence
from pathlib import Path

from benchmarks.sheet import Sheet

COMMANDS = {
    "rounds": "a round in which nobody trains: seconds, processor time, memory, bytes",
    "vs_flower": "the same, and a real job, in turns with Flower",
    "training": "local training in turns with the Hugging Face Trainer",
    "row_noise": "training that hides single rows, in turns with plain training",
    "masked_sums": "sums that nobody can open: seconds of members and coordinator, in turns with plain sums",
    "aggregation": "ms per update in turns with torch and bare memory",
    "wire": "bytes per round by encoding, and what they do to the model",
    "fleet": "many light agents in few processes",
    "simulation": "virtual clients in one process: ms per client, of a small and of a large model",
    "mocha": "land mines and schools: heads alone, one for all, and related by MOCHA, with certificates",
    "row_privacy": "schools that hide their rows: alone, one model for all, and MR-MTL between the two",
    "dual_solver": "MOCHA's local solver: us per visit, compiled and in numpy, and seconds to a duality gap",
    "memory": "the coordinator's memory with a large model",
    "quality": "what federation costs or gains, on real rows",
    "same_bits": "whether this tree and an older one come to the same model, bit for bit",
    "all": "every one of them but quality, mocha, row_privacy and same_bits, with the sizes of docs/performance.md",
}


def main(arguments: Sequence[str] | None = None) -> None:
    """Run one subcommand."""
    words = sys.argv[1:] if arguments is None else arguments
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    commands = parser.add_subparsers(dest="command", required=True, metavar="COMMAND")
    for name, line in COMMANDS.items():
        if name not in words[:1]:
            commands.add_parser(name, help=line)
            continue
        module = importlib.import_module(f"benchmarks.{name}")
        command = commands.add_parser(
            name, help=line, description=module.__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
        )
        command.add_argument("--json", type=Path, metavar="FILE", help="append the results as JSON lines")
        module.add_options(command)
    options = parser.parse_args(words)
    settings = {key: value for key, value in vars(options).items() if key not in ("command", "json")}
    if options.json:
        options.json = options.json.resolve()
    with Sheet(options.command, settings, options.json) as sheet:
        module.run(options, sheet)


if __name__ == "__main__":
    main()
