"""Virtual clients in one process: a crowd that trains a perceptron, and clients of a large model that do not train.

`crowd`: every client trains one epoch of its rows and scores the model each round; the run is timed whole, joining and
the last scoring round included. `no training`: what is left of a client of a 17.5 MB model (BERT-tiny, random) when it
neither trains nor scores: load the published values, take the difference, digest, check, and add it to the sum. Seconds
of a round are those between two rounds that closed; a client's share is that by the number of clients.
"""

from __future__ import annotations

import argparse
import asyncio
import tempfile
from collections.abc import Callable, Sequence
from itertools import pairwise
from pathlib import Path
from time import perf_counter, process_time

from benchmarks.sheet import Sheet
from benchmarks.spread import Spread
from client.app import limit_threads
from common.config import Config, load_config
from common.orders import FederationStatus
from server.core.dual_facts import Certificate
from server.core.effects import RoundClosed, TaskCosines
from server.runs.model import MTLServerModel
from simulation.population import population
from simulation.virtual_clients import run_virtual_clients

COLUMNS = {
    "what": "what",
    "workers": "workers",
    "clients": "clients per round",
    "round_ms": "ms per round",
    "client_ms": "ms per client and round",
    "cpu_ms": "processor ms per client and round",
    "whole_s": "s in all",
}
ROWS_TO_SCORE = 16


def add_options(parser: argparse.ArgumentParser) -> None:
    """The options of this subcommand."""
    parser.add_argument("--crowd", type=int, default=1000, help="clients of the perceptron (default: %(default)s)")
    parser.add_argument("--tasks", type=int, default=20, help="its tasks, each client has one (default: %(default)s)")
    parser.add_argument("--rows", type=int, default=64, help="training rows of a client (default: %(default)s)")
    parser.add_argument("--clients", type=int, default=10, help="clients that do not train (default: %(default)s)")
    parser.add_argument("--rounds", type=int, default=10, help="default: %(default)s")
    parser.add_argument("--workers", default="1,2", help="numbers of models to try (default: %(default)s)")


def run(options: argparse.Namespace, sheet: Sheet) -> None:
    """Two rows per number of workers."""
    limit_threads(1)
    sheet.columns(COLUMNS)
    for workers in options.workers.split(","):
        common = [f"training.num_rounds={options.rounds}", f"simulation.workers={workers}"]
        one_row(sheet, "crowd", load_config(None, [*perceptron_settings(options), *common]))
        one_row(sheet, "no training", load_config(None, [*scoring_settings(options), *common]))


def perceptron_settings(options: argparse.Namespace) -> list[str]:
    """A perceptron of 2,800 parameters and heads, 9 features as in the land-mine data, two classes."""
    kind = f"{{type: classification, labels: 2, train_samples: {options.rows}, val_samples: {ROWS_TO_SCORE}}}"
    return [
        "model={server_model: mlp, mlp: {features: 9, hidden: [64, 32]}}",
        "tasks={" + ", ".join(f"t{number}: {kind}" for number in range(options.tasks)) + "}",
        "training={local_epochs: 1, learning_rate: 5e-3, batch_size: 16}",
        f"simulation.clients={options.crowd}",
    ]


def scoring_settings(options: argparse.Namespace) -> list[str]:
    """BERT-tiny without training and without rows to score."""
    return [
        "model.weights=random",
        "model.hub_timeout_seconds=1",
        "tasks={sst2: {train_samples: 8, val_samples: 0}}",
        "training.local_epochs=0",
        f"simulation.clients={options.clients}",
    ]


class Stopwatch:
    """Notes when rounds close."""

    def __init__(self) -> None:
        self.closed_at: list[tuple[float, float]] = []

    def notice(self, text: str, warning: bool) -> None:
        """See `Observer`."""

    def withdrew(self) -> None:
        """See `Observer`."""

    def changed(self, waiting: bool, describe: Callable[[], FederationStatus]) -> None:
        """See `Observer`."""

    def closed(
        self, record: RoundClosed, cosines: Sequence[TaskCosines] = (), certificate: Certificate | None = None
    ) -> None:
        """See `Observer`."""
        if record.published is not None:
            self.closed_at.append((perf_counter(), process_time()))


def one_row(sheet: Sheet, what: str, config: Config) -> None:
    """Simulate, and tell what it took; the first round warms up."""
    section = config.model
    model = MTLServerModel.create(
        section.inputs.find_encoder(section),
        section.pair_mode,
        section.max_length,
        config.definitions(),
        config.sharing_plan(),
        config.run.seed,
    )
    watch, began = Stopwatch(), perf_counter()
    with tempfile.TemporaryDirectory() as folder:
        asyncio.run(run_virtual_clients(config, model, population(config), Path(folder), watch))
    whole = perf_counter() - began
    walls, used = ([one[k] - other[k] for other, one in pairwise(watch.closed_at)] for k in (0, 1))
    clients = config.simulation.clients
    sheet.row(
        what=what,
        workers=config.simulation.workers,
        clients=clients,
        round_ms=Spread.of(walls).scaled(1e3),
        client_ms=Spread.of(walls).scaled(1e3 / clients),
        cpu_ms=Spread.of(used).scaled(1e3 / clients),
        whole_s=whole,
    )
