"""Encoders over images and sequences: rows in every layout, training in a federation, the same bits everywhere."""

from __future__ import annotations

import asyncio
import json
from pathlib import Path

import numpy as np
import pytest

from client.state.store import RunStore
from common.config import Config, load_config
from common.encoders.conv1d import Conv1dEncoder
from common.encoders.conv2d import Conv2dEncoder
from common.encoders.gru import GRUEncoder
from common.encoders.row import ArrayEncoder
from simulation.population import population
from simulation.virtual_clients import run_virtual_clients
from tests.federations import digest_of, federate, make_model

ENCODERS: dict[str, ArrayEncoder] = {
    "conv2d": Conv2dEncoder((3, 8, 6), (4, 6), hidden=5),
    "conv2d without norm": Conv2dEncoder((1, 8, 6), (4,), norm="none", hidden=5),
    "conv1d": Conv1dEncoder((12, 2), (4, 6), hidden=5),
    "gru": GRUEncoder((7, 2), hidden=5, layers=2),
}
CLIENTS = (("a", ("a0",), "1/2"), ("b", ("a0",), "2/2"), ("c", ("b1",), "1/2"), ("d", ("a0", "b1"), "2/2"))
MIN = "federation.min_clients=4"
KIND = "{type: classification, labels: [no, yes], train_samples: 40, val_samples: 20}"
TASKS = "tasks={a0: " + KIND + ", b1: " + KIND + "}"


def config_of(encoder: ArrayEncoder, *more: str) -> Config:
    values = json.loads(encoder.describe())
    name = values.pop("model_type")
    sizes = ("training.num_rounds=2", "training.local_epochs=1", "training.learning_rate=1e-2", "training.batch_size=8")
    return load_config(None, [f"model.server_model={name}", f"model.{name}={json.dumps(values)}", TASKS, *sizes, *more])


@pytest.mark.parametrize("name", ENCODERS)
@pytest.mark.parametrize("plan", ["hard", "private_heads", "adaptive"])
def test_one_model_over_every_transport(tmp_path: Path, name: str, plan: str) -> None:
    config = config_of(ENCODERS[name], f"sharing.plan={plan}", "federation.min_clients=4")
    found = {how: asyncio.run(federate(config, tmp_path / how, CLIENTS, how)) for how in ("direct", "grpc")}
    assert len({digest_of(run) for run in found.values()}) == 1
    start = {scope: v.numpy() for scope, v in make_model(config).vectors.items()}
    assert any(not np.array_equal(v, start[scope]) for scope, v in found["grpc"].vectors.items() if scope in start)


@pytest.mark.parametrize("name", ENCODERS)
def test_a_simulation_has_the_same_bits_with_any_number_of_workers(tmp_path: Path, name: str) -> None:
    digests = set()
    for workers in (1, 2):
        config = config_of(
            ENCODERS[name], f"simulation={{clients: 4, workers: {workers}}}", "sharing.plan=private_heads"
        )
        state = tmp_path / str(workers)
        digests.add(
            digest_of(asyncio.run(run_virtual_clients(config, make_model(config), population(config), state))[0])
        )
    assert len(digests) == 1


BATCH = Conv2dEncoder((1, 8, 6), (4,), norm="batch", hidden=5)


def statistics_of(state: Path) -> dict[str, np.ndarray]:
    """What clients keep of the statistics of batch normalisation."""
    found = {}
    for folder in sorted(state.iterdir()):
        (run,) = (path for path in folder.iterdir() if path.is_dir())
        found[folder.name] = (RunStore(run).private() or {})["private"].numpy()
    return found


def test_statistics_of_batch_normalisation_stay_with_their_client_or_are_averaged(tmp_path: Path) -> None:
    own, shared = config_of(BATCH, MIN), config_of(BATCH, MIN, "sharing.norm_statistics=shared")
    runs = {how: asyncio.run(federate(own, tmp_path / how, CLIENTS, how)) for how in ("direct", "grpc")}
    assert len({digest_of(run) for run in runs.values()}) == 1
    kept = statistics_of(tmp_path / "grpc")
    assert {v.shape for v in kept.values()} == {(8,)} and len({v.tobytes() for v in kept.values()}) == len(CLIENTS)
    names = {entry.name for schema in make_model(own).schemas.values() for entry in schema.entries}
    assert {"encoder.layers.0.norm.running_mean", "encoder.layers.0.norm.running_var"} <= names
    assert not any("num_batches_tracked" in name for name in names)
    together = asyncio.run(federate(shared, tmp_path / "shared", CLIENTS, "grpc"))
    model = make_model(shared)
    model.load_vectors(together.vectors)
    found = model.model.encoder.layers[0].norm
    assert (found.running_mean != 0).all() and (found.running_var != 1).all() and (found.running_var > 0).all()
