"""Training that hides single rows, in turns with plain training: BERT-tiny on sst2, and pairs of qqp read one by one.

With frozen embeddings (`training.frozen_layers: 0`), as recommended, and with all parameters, of which every one gets
noise in every step. `clipped` has no noise: what gradients of single rows cost alone.
"""

from __future__ import annotations

import argparse
import time
from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path

import torch

from benchmarks.sheet import Sheet, ratio
from benchmarks.spread import Spread
from benchmarks.training import fresh_model
from client.app import load_data
from client.data.examples import prepare
from client.training.compact import compact_vocabulary
from client.training.loop import TaskSet, train
from client.training.row_noise import HiddenRows, RowSecret, train_hidden
from common.bodies import TrainingSettings
from common.config import Config, load_config
from common.models.multitask import MultiTaskModel
from common.models.packed_tokenizer import unpack_tokenizer

COLUMNS = {
    "task": "task",
    "trained": "trained",
    "how": "how",
    "ms": "ms per batch",
    "cpu_ms": "CPU ms per batch",
    "ratio": "CPU time / plain",
}
NOISE = {"clipped": 0.0, "hidden": 1.0}


def add_options(parser: argparse.ArgumentParser) -> None:
    """The options of this subcommand."""
    parser.add_argument("--data_dir", type=Path, help="folder with sst2 and qqp (default: built-in rows)")
    parser.add_argument("--rows", type=int, default=800, help="default: %(default)s")
    parser.add_argument("--turns", type=int, default=3, help="that count, after one that does not (default: 3)")


def run(options: argparse.Namespace, sheet: Sheet) -> None:
    """A line for each task, each part of the model and each way of training."""
    torch.set_num_threads(1)
    sheet.columns(COLUMNS)
    for task in ("sst2", "qqp"):
        config = _configuration(options, task)
        for trained in ("frozen embeddings", "all"):
            model, rows = _case(config, trained == "all")
            batches = -(-len(rows.train) // config.training.batch_size)
            found = _in_turns(model, rows, config.order_settings(), options.turns)
            for how, seconds in found.items():
                wall, cpu = (
                    Spread.of([1e3 * value / batches for value in kind]) for kind in zip(*seconds, strict=True)
                )
                plain = Spread.of([1e3 * value / batches for _, value in found["plain"]])
                sheet.row(task=task, trained=trained, how=how, ms=wall, cpu_ms=cpu, ratio=ratio(cpu, plain))


def _configuration(options: argparse.Namespace, task: str) -> Config:
    data = [f"data.dir='{options.data_dir.resolve()}'"] if options.data_dir else []
    sizes = [f"tasks.{task}.train_samples={options.rows}", f"tasks.{task}.val_samples=10"]
    return load_config(None, [*sizes, *data, "model.weights=random", "training.local_epochs=1"])


def _case(config: Config, whole: bool) -> tuple[MultiTaskModel, TaskSet]:
    """A model, perhaps with frozen embeddings, and the rows of the configuration's task."""
    made, task = fresh_model(config), config.definitions()[0]
    data, reader = load_data(config, [task])[task.name], unpack_tokenizer(made.tokenizer_bytes)
    train_rows, validation = (prepare(r, task, made.architecture, reader) for r in (data.train, data.validation))
    for name, parameter in made.model.named_parameters():
        parameter.requires_grad_(whole or ".embeddings." not in name)
    return made.model, TaskSet(task, train_rows, validation)


def _in_turns(
    model: MultiTaskModel, rows: TaskSet, settings: TrainingSettings, turns: int
) -> dict[str, Sequence[tuple[float, float]]]:
    """Wall and processor seconds of an epoch by way of training; the first turn does not count."""
    ways: dict[str, Callable[[], object]] = {"plain": partial(_plain, model, rows, settings)}
    for how, multiplier in NOISE.items():
        hidden = HiddenRows(RowSecret(bytes(32), bytes(32)), lambda steps, z=multiplier: z, 1.0)  # type: ignore[misc]
        ways[how] = partial(train_hidden, model, [rows], settings, 1, lambda _: None, hidden)
    found: dict[str, list[tuple[float, float]]] = {how: [] for how in ways}
    for _ in range(turns + 1):
        for how, way in ways.items():
            wall, cpu = time.perf_counter(), time.process_time()
            way()
            found[how].append((time.perf_counter() - wall, time.process_time() - cpu))
    return {how: times[1:] for how, times in found.items()}


def _plain(model: MultiTaskModel, rows: TaskSet, settings: TrainingSettings) -> None:
    """As a client trains: with the embeddings of its own words alone, where they are trained."""
    table = model.encoder.get_input_embeddings()
    trained = table is not None and any(parameter.requires_grad for parameter in table.parameters())
    compact = compact_vocabulary(model, [rows]) if trained else None
    if compact is None:
        train(model, [rows], settings, 1, lambda _: None)
        return
    with compact.in_place():
        train(model, [compact.renumbered(rows)], settings, 1, lambda _: None)
