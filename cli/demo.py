"""Mode demo: a server and its clients on this machine."""

from __future__ import annotations

import argparse
import time
from pathlib import Path

from cli.options import Parser, common_options, configuration
from cli.output import console
from common.errors import ConfigError

PROGRAM = Path(__file__).parent.parent / "federated_main.py"

# A minute and a half on two cores, more than a third of it for the blend: generated text is learned from fewer rows
# and epochs than a real task needs.
DEMO_SIZE = ("training.local_epochs=2", "training.learning_rate=5e-4")
DEMO_ROWS = 400


def options(parser: Parser) -> None:
    """The options of this mode."""
    common_options(parser)
    parser.add_argument("--clients_per_task", type=int, default=2, metavar="N", help="client processes per task")
    parser.add_argument("--run_dir", metavar="DIR", help="run folder (default: runs/demo-<time>)")
    parser.add_argument("--data_dir", metavar="DIR", help="real data instead of generated text")


def run(options: argparse.Namespace) -> None:
    """Do it."""
    from server.runs.demo import run_demo

    if options.clients_per_task < 1:
        raise ConfigError(f"--clients_per_task: {options.clients_per_task} must be at least 1")
    folder = options.run_dir or f"runs/demo-{time.strftime('%Y%m%d-%H%M%S')}"
    options.run_dir = folder
    plain = configuration(options)
    options.set = [
        f"federation.clients_per_task={options.clients_per_task}",
        f"federation.min_clients={len(plain.tasks) * options.clients_per_task}",
        "server.port=0",
        *(DEMO_SIZE if plain.data.source == "builtin" else []),
        *(f"tasks.{task}.train_samples={DEMO_ROWS}" for task in plain.tasks if plain.data.source == "builtin"),
        *options.set,
    ]
    config = configuration(options)
    if config.data.source == "files":
        from client.app import load_data

        load_data(config, config.definitions())  # before there is a folder: rows may be refused
    passed = [f"--set={key}" for key in options.set]
    passed += [f"--{flag}={given}" for flag in ("config", "data_dir", "seed") if (given := getattr(options, flag))]
    run_demo(config, options.clients_per_task, passed, PROGRAM, console())
