"""Bytes per round by encoding of the updates, and what each encoding does to the model.

One client with sst2 takes part in a short federation in one process; the same coordinator and client code as over
gRPC, with every message turned into bytes and back. Settings, rows and seeds are the same for all encodings, so `same
model` says whether the final model equals that of dense float32 bit for bit.
"""

from __future__ import annotations

import argparse
import asyncio
import tempfile
from pathlib import Path

import torch

from benchmarks.quality import create, parts_of, score
from benchmarks.sheet import Sheet
from client.agent import Agent
from client.app import local_definitions
from client.jobs.local_client import local_client
from common.clock import SystemClock
from common.config import Config, load_config
from common.parameters.encodings import ENCODINGS
from server.engine.coordinator import Coordinator
from server.runs.assembly import in_memory
from server.runs.digest import model_digest
from simulation.codec import CodecCoordinator
from simulation.inprocess import run_together

COLUMNS = {
    "rows": "training rows",
    "encoding": "encoding",
    "mb_up": "MB up per round",
    "share": "of dense float32",
    "mb_down": "MB down per round",
    "same_model": "same model",
    "metric": "accuracy",
    "points": "points from dense float32",
    "digest": "model digest",
}
TASK = "sst2"
DENSE = "dense-float32"


def add_options(parser: argparse.ArgumentParser) -> None:
    """The options of this subcommand."""
    parser.add_argument("--data_dir", type=Path, help="folder with sst2 (default: built-in rows)")
    parser.add_argument("--rows", default="200,1000", help="training rows (default: %(default)s)")
    parser.add_argument("--rounds", type=int, default=3, help="default: %(default)s")
    parser.add_argument("--epochs", type=int, default=3, help="local epochs per round (default: %(default)s)")
    parser.add_argument("--val_rows", type=int, default=1000, help="validation rows (default: %(default)s)")
    parser.add_argument("--set", action="append", default=[], metavar="KEY=VALUE", help="any configuration key")


def run(options: argparse.Namespace, sheet: Sheet) -> None:
    """Every number of rows with every encoding, dense float32 first."""
    torch.set_num_threads(1)
    sheet.columns(COLUMNS)
    for rows in map(int, options.rows.split(",")):
        dense: dict[str, float | str] = {}
        for encoding in sorted(ENCODINGS, key=lambda name: name != DENSE):
            found = measure(configuration(options, rows, encoding))
            dense = dense or found
            sheet.row(
                rows=rows,
                encoding=encoding,
                mb_up=float(found["up"]) / 1e6,
                share=f"{float(found['up']) / float(dense['up']):.1%}",
                mb_down=float(found["down"]) / 1e6,
                same_model="yes" if found["digest"] == dense["digest"] else "no",
                metric=float(found["accuracy"]),
                points=100 * (float(found["accuracy"]) - float(dense["accuracy"])),
                digest=str(found["digest"])[:16],
                up_share=float(found["up"]) / float(dense["up"]),
            )


def configuration(options: argparse.Namespace, rows: int, encoding: str) -> Config:
    """The shipped defaults with one encoding."""
    folder = options.data_dir.resolve() if options.data_dir else None
    vocabulary = folder / "bert_vocab" / "vocab.txt" if folder else Path()
    return load_config(
        None,
        [
            f"tasks.{TASK}.train_samples={rows}",
            f"tasks.{TASK}.val_samples={options.val_rows}",
            "model.weights=random",
            f"training.num_rounds={options.rounds}",
            f"training.local_epochs={options.epochs}",
            f"federation.update_encoding={encoding}",
            *([f"data.dir='{folder}'"] if folder else []),
            *([f"model.tokenizer='{vocabulary}'"] if vocabulary.is_file() else []),
            *options.set,
        ],
    )


def measure(config: Config) -> dict[str, float | str]:
    """Bytes of an update and of what the client fetches per round, the final model's digest and its accuracy."""
    model, task = create(config), local_definitions(config, [TASK])[0]
    parts = parts_of(config, task, 1)
    coordinator = in_memory(config, model, SystemClock())
    with tempfile.TemporaryDirectory() as folder:
        client = local_client("client", [task], {TASK: parts[0]}, torch.device("cpu"))
        agent = Agent(CodecCoordinator(coordinator), client, Path(folder))
        asyncio.run(run_together(coordinator, [agent]))
    rounds = config.training.num_rounds
    orders = [order for round_ in coordinator.journal.rounds() for order in round_.orders.values()]
    model.load_vectors(coordinator.vectors)
    scopes = sum(vector.nbytes for vector in coordinator.vectors.values())
    return {
        "up": sum(order.nbytes for order in orders) / rounds,
        "down": scopes,
        "digest": digest_of(coordinator),
        "accuracy": score(model, config, task, parts)["accuracy"] or 0.0,
    }


def digest_of(coordinator: Coordinator) -> str:
    """The digest that a report would give."""
    schemas = coordinator.settings.schemas
    return model_digest((scope, schemas[scope][0], [v.data.cast("B")]) for scope, v in coordinator.vectors.items())
