"""What federation costs or gains in quality, on real rows: FedMTL, central single-task training, the majority class.

Every method sees the same training rows and epochs, and is scored on the same validation rows. FedMTL runs the real
coordinator and clients in one process (the model is the same, bit for bit, as over gRPC). `--split 2` gives each task
to two clients, half of the rows each.
"""

from __future__ import annotations

import argparse
import asyncio
import tempfile
import time
from collections import Counter
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import torch

from benchmarks.sheet import Sheet
from client.agent import Agent
from client.app import load_data, local_definitions
from client.data.examples import RawExamples, TaskData, prepare
from client.data.texts import TextExamples
from client.jobs.local_client import local_client
from client.training.evaluation import evaluate
from client.training.loop import TaskSet, train
from common.clock import SystemClock
from common.config import Config, load_config
from common.models.packed_tokenizer import unpack_tokenizer
from common.models.pretrained import resolve_encoder
from common.seeds import derive_seed
from common.statistics import merge
from common.targets import OWN_UNITS, TargetUnits, coarse, pooled, sums_of
from common.tasks import TaskDefinition
from server.runs.assembly import in_memory
from server.runs.model import MTLServerModel
from simulation.inprocess import run_together

Scores = dict[str, float | None]
CPU = torch.device("cpu")


def configuration(options: argparse.Namespace, seed: int, tasks: Sequence[str]) -> Config:
    """The shipped defaults with the data, the model and the size of this measurement."""
    random = options.model == "random"
    settings = [
        f"run.seed={seed}",
        *([f"data.dir='{options.data_dir}'"] if options.data_dir else []),
        f"training.num_rounds={options.rounds}",
        f"training.local_epochs={options.epochs}",
        f"federation.min_clients={len(tasks) * options.split}",
        "model.weights=" + ("random" if random else "pretrained"),
        *([] if random else [f"model.server_model='{options.model}'"]),
        *([f"model.tokenizer='{options.tokenizer}'"] if options.tokenizer else []),
        *(f"tasks.{task}.train_samples={options.rows // options.split}" for task in tasks),
        *options.set,
    ]
    return load_config(None, settings)


def create(config: Config) -> MTLServerModel:
    """The initial model."""
    section = config.model
    source = resolve_encoder(section.server_model, section.weights, section.tokenizer, section.hub_timeout_seconds)
    return MTLServerModel.create(
        source, section.pair_mode, section.max_length, config.definitions(), config.sharing_plan(), config.run.seed
    )


def parts_of(config: Config, task: TaskDefinition, split: int) -> list[TaskData]:
    """One client's rows each."""
    data = [config.data.model_copy(update={"partition": f"{i + 1}/{split}"}) for i in range(split)]
    return [load_data(config.model_copy(update={"data": section}), [task])[task.name] for section in data]


def federated(config: Config, parts: dict[str, list[TaskData]]) -> tuple[MTLServerModel, list[dict[str, Scores]]]:
    """Run the federation; the final model, and per round the scores of the published model."""
    definitions = {task.name: task for task in local_definitions(config, list(parts))}
    model = create(config)
    coordinator = in_memory(config, model, SystemClock())
    with tempfile.TemporaryDirectory() as folder:
        agents = [
            Agent(
                coordinator,
                local_client(f"{task}_{i}", [definitions[task]], {task: rows}, CPU),
                Path(folder) / f"{task}_{i}",
            )
            for task, clients in parts.items()
            for i, rows in enumerate(clients)
        ]
        asyncio.run(run_together(coordinator, agents))
    model.load_vectors(coordinator.vectors)
    history: list[dict[str, Scores]] = []
    for round_ in coordinator.journal.rounds():
        results = [r for order in sorted(round_.orders.values(), key=lambda o: o.client_id) for r in order.results]
        scores = {}
        for task in parts:
            found = [r.validation for r in results if r.task == task and r.validation is not None]
            scores[task] = definitions[task].summarise(merge(found))
        history.append(scores)
    return model, history


def texts(examples: RawExamples) -> TextExamples:
    """Texts, which is all that this benchmark is about."""
    assert isinstance(examples, TextExamples)
    return examples


def score(model: MTLServerModel, config: Config, task: TaskDefinition, parts: list[TaskData]) -> Scores:
    """The model's metrics on all validation rows together."""
    rows = TextExamples(row for part in parts for row in texts(part.validation))
    encoded = prepare(rows, task, model.architecture, unpack_tokenizer(model.tokenizer_bytes))
    units = units_of(task, parts)
    return task.summarise(evaluate(model.model, task, encoded, config.training.eval_batch_size, units))


def units_of(task: TaskDefinition, parts: list[TaskData]) -> TargetUnits:
    """The units that a federation of these clients gives a task's head."""
    if not task.type.has_units:
        return OWN_UNITS
    return coarse(
        *pooled(
            [
                (len(part.train), sums_of(task.type.targets(task, part.train.labels).astype(np.float64)))
                for part in parts
            ]
        )
    )


def central(config: Config, task: TaskDefinition, parts: list[TaskData]) -> Scores:
    """One model, one task, all its rows in one place, as many epochs as the federation does in all."""
    model = create(config)
    rows = TextExamples(row for part in parts for row in texts(part.train))
    encoded = prepare(rows, task, model.architecture, unpack_tokenizer(model.tokenizer_bytes))
    section = config.training
    settings = section.model_copy(update={"local_epochs": section.num_rounds * section.local_epochs}).settings()
    seed = derive_seed(config.run.seed, "central", task.name)
    train(model.model, [TaskSet(task, encoded, encoded, units_of(task, parts))], settings, seed, lambda _: None)
    return score(model, config, task, parts)


def majority(task: TaskDefinition, parts: list[TaskData]) -> Scores:
    """Always the most frequent class, or the mean score, of the training rows."""
    labels = [row.label for part in parts for row in texts(part.train)]
    targets = np.array([row.label for part in parts for row in texts(part.validation)], dtype=np.float64)
    if task.type.has_units:
        outputs = np.full((len(targets), 1), float(np.mean(np.array(labels, dtype=np.float64))))
    else:
        outputs = np.zeros((len(targets), task.outputs))
        outputs[:, int(Counter(map(str, labels)).most_common(1)[0][0])] = 1.0
    return task.summarise(task.type.measure(task, outputs, targets, 0.0)) | {"loss": None}


def add_options(parser: argparse.ArgumentParser) -> None:
    """The options of this subcommand."""
    parser.add_argument("--data_dir", help="folder with the tasks (default: built-in rows)")
    parser.add_argument("--model", default="random", help="folder, minilm-l6, or random (BERT-tiny)")
    parser.add_argument("--tokenizer", help="vocab.txt or folder, for random weights")
    parser.add_argument("--tasks", default="sst2,qqp,stsb")
    parser.add_argument("--seeds", default="0,1,2")
    parser.add_argument("--rows", type=int, default=1000, help="training rows per task")
    parser.add_argument("--rounds", type=int, default=10)
    parser.add_argument("--epochs", type=int, default=3, help="local epochs per round")
    parser.add_argument("--split", type=int, default=1, help="clients per task")
    parser.add_argument("--set", action="append", default=[], metavar="KEY=VALUE", help="any configuration key")


def run(options: argparse.Namespace, sheet: Sheet) -> None:
    """The curve of every round as notes, then one row per task and method."""
    torch.set_num_threads(1)
    tasks, seeds = options.tasks.split(","), [int(seed) for seed in options.seeds.split(",")]
    found: dict[tuple[str, str], list[Scores]] = {}
    for seed in seeds:
        config = configuration(options, seed, tasks)
        definitions = local_definitions(config, tasks)
        parts = {task.name: parts_of(config, task, options.split) for task in definitions}
        started = time.monotonic()
        model, history = federated(config, parts)
        for number, scores in enumerate(history):
            line = {task: {name: v and round(v, 3) for name, v in s.items()} for task, s in scores.items()}
            sheet.note(f"seed {seed}, model of round {number}: {line}")
        sheet.note(f"seed {seed}: federated training took {time.monotonic() - started:.0f} s")
        for task in definitions:
            rows = parts[task.name]
            found.setdefault((task.name, "FedMTL"), []).append(score(model, config, task, rows))
            found.setdefault((task.name, "central single-task"), []).append(central(config, task, rows))
            found.setdefault((task.name, "majority"), []).append(majority(task, rows))
    sheet.columns({"task": "task", "method": "method", "metrics": "metrics: mean (least .. greatest over seeds)"})
    for (name, method), runs in found.items():
        sheet.row(task=name, method=method, metrics="; ".join(_spread(metric, runs) for metric in runs[0]))


def _spread(name: str, runs: list[Scores]) -> str:
    values = [value for run in runs if (value := run[name]) is not None]
    if not values:
        return f"{name} -"
    return f"{name} {np.mean(values):.3f} ({min(values):.3f} .. {max(values):.3f})"
