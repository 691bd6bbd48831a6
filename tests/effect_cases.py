"""Tasks of planted groups over numbers: those of a group ask for one direction, and the encoder has room for few."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import torch

from client.agent import Agent
from client.app import local_definitions
from client.data.array_examples import ArrayExamples
from client.data.examples import TaskData
from client.jobs.local_client import local_client
from client.state.store import REPEATABLE
from common.clock import ManualClock
from common.config import Config
from server.engine.coordinator import Coordinator
from server.runs.assembly import in_memory
from simulation.inprocess import run_together
from tests.federations import array_config, make_model

FEATURES = 12
BLOCK = "member/{member}/layer_0"


def planted(groups: int, each: int, noise: int = 0, rows: int = 40, seed: int = 1) -> dict[str, TaskData]:
    """Tasks g0t0, g0t1, ... whose label is the sign along their group's axis; n0, n1, ... have random labels."""
    rng = np.random.Generator(np.random.PCG64(seed))
    found = {}
    names = [(f"g{g}t{t}", g) for g in range(groups) for t in range(each)] + [(f"n{t}", None) for t in range(noise)]
    for name, group in names:
        x = rng.normal(size=(2 * rows, FEATURES)).astype(np.float32)
        y = rng.integers(0, 2, 2 * rows) if group is None else (x[:, group] > 0.0).astype(np.int64)
        parts = [ArrayExamples(x[part], y[part]) for part in (slice(None, rows), slice(rows, None))]
        found[name] = TaskData(parts[0], parts[1], "files")
    return found


def effect_config(tasks: dict[str, TaskData], *overrides: str) -> Config:
    return array_config(
        "sharing.plan=adaptive",
        "relation=effect",
        f"model.mlp={{features: {FEATURES}, hidden: [2]}}",
        "training.local_epochs=2",
        "training.learning_rate=2e-2",
        *overrides,
        tasks=tuple(tasks),
    )


def run(config: Config, tasks: dict[str, TaskData], state: Path) -> Coordinator:
    """One client per task, by direct calls."""
    config = config.model_copy(update={"federation": config.federation.model_copy(update={"min_clients": len(tasks)})})
    coordinator = in_memory(config, make_model(config), ManualClock())
    agents = []
    for name, data in tasks.items():
        client = local_client(name, local_definitions(config, [name]), {name: data}, torch.device("cpu"))
        agents.append(Agent(coordinator, client, state / name, durability=REPEATABLE))
    asyncio.run(run_together(coordinator, agents))
    return coordinator


def groups_after(coordinator: Coordinator) -> list[list[list[str]]]:
    """The groups of the encoder after each round."""
    records = [record for record in coordinator.journal.relations() if record.template == BLOCK]
    return [sorted(sorted(group) for group in json.loads(record.state)["groups"]) for record in records]


def mean_accuracy(coordinator: Coordinator, tasks: Sequence[str]) -> float:
    """Of these tasks' last scores on validation rows."""
    results = [result for order in coordinator.journal.rounds()[-1].orders.values() for result in order.results]
    scores = [result.validation for result in results if result.task in tasks and result.validation is not None]
    return sum(found.right / found.examples for found in scores) / len(tasks)
