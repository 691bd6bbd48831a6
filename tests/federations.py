"""Whole federations for tests: a small model, built-in data, every transport, arrivals in any order."""

import asyncio
import json
from collections.abc import Sequence
from contextlib import AsyncExitStack
from pathlib import Path

import numpy as np
import torch

from client.agent import Agent
from client.app import limits_of, load_data, local_definitions, members_of
from client.jobs.local_client import Computing, LocalClient, local_client
from client.transport.grpc_port import GrpcCoordinator
from common.capabilities import Capacity
from common.clock import ManualClock
from common.config import Config, load_config
from common.orders import Update
from common.ports import CoordinatorPort, single
from server.engine.coordinator import Coordinator
from server.runs.assembly import in_memory
from server.runs.digest import model_digest
from server.runs.model import MTLServerModel
from server.service.grpc_server import start_server
from simulation.codec import CodecCoordinator
from simulation.inprocess import run_together

Clients = Sequence[tuple[str, tuple[str, ...], str]]
"""(client id, tasks, partition) of every client."""

CLIENTS: Clients = (
    ("a", ("sst2",), "1/2"),
    ("b", ("sst2",), "2/2"),
    ("c", ("qqp",), "1/2"),
    ("d", ("sst2", "qqp"), "2/2"),
)


NOISE_KEY = bytes(range(32))
"""What noise is made of in tests; a run folder has a secret one."""


def write_model(folder: Path, dropout: float = 0.1, hidden: int = 16) -> Path:
    """A local model folder with a one-layer BERT and no weights."""
    config = {
        "model_type": "bert",
        "vocab_size": 30_522,
        "hidden_size": hidden,
        "num_hidden_layers": 1,
        "num_attention_heads": 2,
        "intermediate_size": 2 * hidden,
        "max_position_embeddings": 64,
        "hidden_dropout_prob": dropout,
        "attention_probs_dropout_prob": dropout,
    }
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "config.json").write_text(json.dumps(config))
    return folder


def small_config(folder: Path, *overrides: str, tasks: Sequence[str] = ("sst2", "qqp"), dropout: float = 0.1) -> Config:
    model = write_model(folder / "model", dropout)
    sizes = [f"tasks.{task}.{key}={n}" for task in tasks for key, n in (("train_samples", 24), ("val_samples", 12))]
    return load_config(
        None,
        [
            f"model.server_model='{model}'",
            "model.max_length=32",
            "training.num_rounds=2",
            "training.local_epochs=1",
            "training.batch_size=8",
            "federation.min_clients=4",
            *sizes,
            *overrides,
        ],
    )


def array_config(*overrides: str, tasks: Sequence[str] = ("a0", "b1")) -> Config:
    """Binary tasks over generated rows of numbers."""
    kind = (
        "{type: classification, labels: [no, yes], metrics: [auc_mean, accuracy], train_samples: 40, val_samples: 20}"
    )
    return load_config(
        None,
        [
            "model.server_model=mlp",
            "model.mlp={features: 5, hidden: [8]}",
            "training.num_rounds=2",
            "training.local_epochs=1",
            "training.learning_rate=1e-2",
            "training.batch_size=8",
            "tasks={" + ", ".join(f"{task}: {kind}" for task in tasks) + "}",
            *overrides,
        ],
    )


def contradicting_config(folder: Path, *overrides: str) -> Config:
    """Two tasks that need different inputs, an encoder of one unit, and four times the rows for the first of them."""
    rng = np.random.Generator(np.random.PCG64(3))
    for task, rows, column in (("a0", 480, 0), ("b1", 120, 1)):
        x = rng.normal(size=(rows, 2)).astype(np.float32)
        np.savez(folder / f"{task}.npz", x=x, y=(x[:, column] > 0).astype(int))
    kind = "{type: classification, labels: [no, yes], metrics: [accuracy]}"
    sizes = ("model.mlp={features: 2, hidden: [1]}", "training.local_epochs=3")
    return array_config(f"data.dir='{folder}'", *sizes, f"tasks={{a0: {kind}, b1: {kind}}}", *overrides)


def make_model(config: Config) -> MTLServerModel:
    section = config.model
    source = section.inputs.find_encoder(section)
    return MTLServerModel.create(
        source,
        section.pair_mode,
        section.max_length,
        config.definitions(),
        config.sharing_plan(),
        config.run.seed,
        config.training.procedure.is_dual,
    )


def make_client(config: Config, client: str, tasks: Sequence[str], partition: str) -> LocalClient:
    section = config.model_copy(update={"data": config.data.model_copy(update={"partition": partition})})
    definitions = local_definitions(section, tasks)
    own = config.client
    computing = Computing(
        own.compact_vocabulary,
        own.precision,
        Capacity(own.trains, own.layers),
        limits_of(config),
        hides_rows=config.privacy.of_rows,
        members=members_of(config),
    )
    return local_client(client, definitions, load_data(section, definitions), torch.device("cpu"), computing=computing)


class Turns:
    """Who may hand in when: a different, seeded order of the clients in each round."""

    def __init__(self, clients: Sequence[str], seed: int) -> None:
        self._clients = sorted(clients)
        self._seed = seed
        self._done: dict[str, int] = {}
        self._moved = asyncio.Condition()

    async def submit(self, port: CoordinatorPort, session, header, chunks):
        key = header.order_id.removesuffix(f"-{session.client_id}")
        rng = np.random.Generator(np.random.PCG64([self._seed, *key.encode()]))
        turn = rng.permutation(self._clients).tolist().index(session.client_id)
        async with self._moved:
            await self._moved.wait_for(lambda: self._done.get(key, 0) == turn)
        receipt = await port.submit(session, header, chunks)
        async with self._moved:
            self._done[key] = turn + 1
            self._moved.notify_all()
        return receipt


class SubmittingPort:
    """A port whose updates all come by `submit`, those that are small enough for a poll too."""

    def __init__(self, port: CoordinatorPort) -> None:
        self._port = port

    def __getattr__(self, name: str) -> object:
        return getattr(self._port, name)

    async def poll(self, session, pending_order, answer=None):
        if isinstance(answer, Update):
            await self.submit(session, answer.header, lambda _: single(answer.payload))
            answer = None
        return await self._port.poll(session, pending_order, answer)

    async def submit(self, session, header, chunks):
        return await self._port.submit(session, header, chunks)


class InTurn(SubmittingPort):
    """A port whose client hands in when it is its turn."""

    def __init__(self, port: CoordinatorPort, turns: Turns) -> None:
        super().__init__(port)
        self._turns = turns

    async def submit(self, session, header, chunks):
        return await self._turns.submit(self._port, session, header, chunks)


async def federate(
    config: Config, state: Path, clients: Clients = CLIENTS, how: str = "direct", shuffle: int | None = None
) -> Coordinator:
    """Run a federation to its end; `how` is direct, codec or grpc; `shuffle` seeds the order of arrival."""
    coordinator = in_memory(config, make_model(config), ManualClock(), key=NOISE_KEY)
    turns = Turns([name for name, _, _ in clients], shuffle) if shuffle is not None else None
    async with AsyncExitStack() as stack:
        if how == "grpc":
            server = await start_server(coordinator, "127.0.0.1", 0, None)
            stack.push_async_callback(server.stop, 0)
        agents = []
        for name, tasks, partition in clients:
            port: CoordinatorPort = coordinator
            if how == "codec":
                port = CodecCoordinator(coordinator)
            elif how == "grpc":
                port = await stack.enter_async_context(GrpcCoordinator("127.0.0.1", server.port_number, None, name))
            if turns is not None:
                port = InTurn(port, turns)
            agents.append(Agent(port, make_client(config, name, tasks, partition), state / name))
        await run_together(coordinator, agents)
    return coordinator


def digest_of(coordinator: Coordinator) -> str:
    return model_digest(
        (scope, coordinator.settings.schemas[scope][0], [vector.data.cast("B")])
        for scope, vector in coordinator.vectors.items()
    )
