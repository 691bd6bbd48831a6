"""Clients of planted groups, whose labels contradict each other, and IFCA written down once more in plain torch."""

from __future__ import annotations

import asyncio
from collections.abc import Mapping
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from torch.nn import functional

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

Rows = Mapping[str, tuple[NDArray[np.float32], NDArray[np.int64]]]
"""Client -> (x, y)."""

RATE = 0.1
EPOCHS = 3


def planted(groups: int, each: int, seed: int = 5) -> Rows:
    """Clients g0c0, g0c1, ... of 20 to 30 rows: the label is whether x points along its group's own direction."""
    rng = np.random.Generator(np.random.PCG64(seed))
    angles = [2.0 * np.pi * group / groups for group in range(groups)]
    rows = {}
    for group, angle in enumerate(angles):
        for client in range(each):
            x = rng.normal(size=(int(rng.integers(20, 31)), 5)).astype(np.float32)
            y = (x[:, 0] * np.cos(angle) + x[:, 1] * np.sin(angle) > 0.0).astype(np.int64)
            rows[f"g{group}c{client}"] = x, y
    return rows


def ifca_config(*overrides: str, models: int = 2) -> Config:
    """All that members have is a model of 5 features, one hidden layer and a head; a step sees all rows."""
    return array_config(
        "sharing={plan: soft, members: clients}",
        f"relation={{name: ifca, num_models: {models}}}",
        "training.optimizer=sgd",
        f"training.learning_rate={RATE}",
        f"training.local_epochs={EPOCHS}",
        "training.batch_size=100",
        "training.max_grad_norm=0",
        "training.num_rounds=10",
        *overrides,
        tasks=("a0",),
    )


def run(config: Config, rows: Rows, state: Path) -> Coordinator:
    """The federation of these clients, by direct calls."""
    config = config.model_copy(update={"federation": config.federation.model_copy(update={"min_clients": len(rows)})})
    coordinator = in_memory(config, make_model(config), ManualClock())
    agents = []
    for name, (x, y) in rows.items():
        data = {"a0": TaskData(ArrayExamples(x, y), ArrayExamples(x[:8], y[:8]), "files")}
        client = local_client(name, local_definitions(config, ["a0"]), data, torch.device("cpu"))
        agents.append(Agent(coordinator, client, state / name, durability=REPEATABLE))
    asyncio.run(run_together(coordinator, agents))
    return coordinator


def loss_of(model: torch.Tensor, x: torch.Tensor, y: torch.Tensor) -> torch.Tensor:
    """Cross entropy of relu(x A' + a) B' + b, the parameters one after the other: 8 x 5, 8, 2 x 8, 2."""
    first, bias, head, offset = torch.split(model, [40, 8, 16, 2])
    hidden = torch.relu(x @ first.view(8, 5).T + bias)
    return functional.cross_entropy(hidden @ head.view(2, 8).T + offset, y)


def plain_ifca(
    models: list[NDArray[np.float64]], rows: Rows, rounds: int
) -> tuple[list[NDArray[np.float64]], list[dict[str, int]]]:
    """Algorithm 1 of Ghosh et al. 2020 with averaging of models; what comes of the models, and who chose which."""
    now = [torch.from_numpy(model) for model in models]
    choices = []
    for _ in range(rounds):
        sums, weights = [torch.zeros_like(model) for model in now], [0] * len(now)
        chosen = {}
        for client, (values, labels) in rows.items():
            x, y = torch.from_numpy(values).double(), torch.from_numpy(labels)
            with torch.no_grad():
                losses = [float(loss_of(model, x, y)) for model in now]
            best = losses.index(min(losses))
            own = now[best].clone().requires_grad_()
            for _ in range(EPOCHS):
                (slope,) = torch.autograd.grad(loss_of(own, x, y), own)
                own = (own - RATE * slope).detach().requires_grad_()
            sums[best] += len(y) * own.detach()
            weights[best] += len(y)
            chosen[client] = best
        now = [total / weight if weight else old for old, total, weight in zip(now, sums, weights, strict=True)]
        choices.append(chosen)
    return [model.numpy() for model in now], choices
