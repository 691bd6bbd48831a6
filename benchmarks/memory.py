"""The coordinator's memory while a large model passes through rounds of clients that do not train."""

from __future__ import annotations

import argparse
import tempfile
from pathlib import Path

from benchmarks.coordinator_process import CoordinatorProcess
from benchmarks.encoders import SIZES, model_settings, parameter_bytes
from benchmarks.processes import Program, python
from benchmarks.sheet import Sheet

TASKS = ("sst2", "qqp")
COLUMNS = {
    "clients": "clients",
    "model_mb": "model MB",
    "start_peak_mb": "peak MB before clients",
    "rounds_peak_mb": "peak MB in the rounds",
    "ratio": "peak / model",
}


def add_options(parser: argparse.ArgumentParser) -> None:
    """The options of this subcommand."""
    parser.add_argument("--model", choices=SIZES, default="bert-base", help="default: %(default)s")
    parser.add_argument("--clients", default="2,6", help="numbers of light agents (default: %(default)s)")
    parser.add_argument("--rounds", type=int, default=2, help="default: %(default)s")
    parser.add_argument("--set", action="append", default=[], metavar="KEY=VALUE", help="any configuration key")


def run(options: argparse.Namespace, sheet: Sheet) -> None:
    """One row per number of clients."""
    sheet.columns(COLUMNS)
    with tempfile.TemporaryDirectory() as name:
        for count in map(int, options.clients.split(",")):
            start, peak, size = measure(Path(name), options.model, count, options.rounds, options.set)
            sheet.row(
                clients=count,
                model=options.model,
                model_mb=size / 1e6,
                start_peak_mb=start / 1e6,
                rounds_peak_mb=peak / 1e6,
                ratio=peak / size,
            )


def measure(folder: Path, model: str, clients: int, rounds: int, more: list[str]) -> tuple[int, int, int]:
    """Peak resident bytes of the coordinator from start-up on, from the first round on, and the model's bytes."""
    settings = [
        *model_settings(folder, model),
        *(f"tasks.{task}.train_samples=100" for task in TASKS),
        f"training.num_rounds={rounds}",
        f"federation.min_clients={clients}",
        *more,
    ]
    with CoordinatorProcess(folder / f"run-{clients}", settings) as coordinator:
        start_peak = coordinator.peak_bytes()
        coordinator.reset_peak()
        with Program(python("benchmarks.light_agents", str(coordinator.port), str(clients), ",".join(TASKS))) as agents:
            coordinator.wait_until_finished()
            peak = coordinator.peak_bytes()
            agents.wait(60.0)
    size = parameter_bytes(folder / f"run-{clients}")
    return start_peak, peak, size
