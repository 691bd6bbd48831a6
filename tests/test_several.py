"""Rows of several parts: whoever lacks one trains the others, and it is averaged over those who have it."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import nn
from torch.nn import functional

from client.app import data_request, local_definitions
from client.data.array_examples import ArrayExamples
from client.data.array_loader import read_rows
from client.data.examples import TaskData
from client.data.given import read_given
from client.data.sources import finished
from common.capabilities import Capacity
from common.clock import ManualClock
from common.config import Config
from common.encoders.several import SeveralEncoder
from common.errors import DataError, ModelError
from common.inputs.arrays import encoder_described
from common.parameters.capacity import capacity_problem
from common.tasks import TASK_KINDS, TaskDefinition
from server.engine.coordinator import Coordinator
from server.runs.assembly import in_memory
from simulation.inprocess import run_together
from simulation.population import VirtualClient
from simulation.virtual_clients import VirtualClients, settings_for_simulation
from tests.federations import digest_of, federate, make_model
from tests.test_array_encoders import config_of

IMAGE = {"conv2d": {"shape": [1, 6, 4], "filters": [3], "hidden": 5, "norm": "none"}}
TABLE = {"mlp": {"features": 3, "hidden": [4]}}
FARM = SeveralEncoder({"image": IMAGE, "table": TABLE}, hidden=6)
FARMS = (("a", ("a0",), "1/2"), ("b", ("a0", "b1"), "2/2"))
MINE = TaskDefinition("mine", TASK_KINDS["classification"], ("no", "yes"), False, ("accuracy",))


def rows(seed: int, count: int = 40, image: bool = True) -> tuple[dict[str, Any], Any]:
    rng = np.random.Generator(np.random.PCG64(seed))
    table = rng.normal(size=(count, 3)).astype(np.float32)
    x = {"table": table}
    if image:
        x["image"] = rng.normal(size=(count, 1, 6, 4)).astype(np.float32)
    return x, np.where(table[:, 0] > 0, "yes", "no")


@pytest.mark.parametrize("plan", ["hard", "private_heads", "adaptive", "soft"])
def test_one_model_over_every_transport(tmp_path: Path, plan: str) -> None:
    config = config_of(FARM, f"sharing.plan={plan}", "federation.min_clients=2")
    found = {how: asyncio.run(federate(config, tmp_path / how, FARMS, how)) for how in ("direct", "grpc")}
    assert len({digest_of(run) for run in found.values()}) == 1
    start = {scope: v.numpy() for scope, v in make_model(config).vectors.items()}
    assert any(not np.array_equal(v, start[scope]) for scope, v in found["grpc"].vectors.items() if scope in start)


def simulated(config: Config, folder: Path, given: Mapping[str, tuple[Any, Any]]) -> Coordinator:
    """A simulation of sites that have rows of task a0."""
    clients = [VirtualClient(site, {"a0": (1, 1)}) for site in given]
    data = {site: {"a0": task_data(config, site, values)} for site, values in given.items()}

    async def run() -> Coordinator:
        model, clock = make_model(config), ManualClock()
        coordinator = in_memory(config, model, clock)
        coordinator.writer.settings = settings_for_simulation(coordinator.settings, len(clients))
        virtual = VirtualClients(config, coordinator, clock, model.schemas, clients, folder, rows=data)
        with virtual.pool.running():
            await run_together(coordinator, virtual.agents)
        return coordinator

    return asyncio.run(run())


def task_data(config: Config, site: str, values: tuple[Any, Any]) -> TaskData:
    request = data_request(config, *local_definitions(config, ["a0"]))
    return finished(read_given(request, site, values), request)


def farms(*more: str) -> Config:
    three = ("simulation.clients=3", "federation.min_clients=3")
    steps = ("training.optimizer=sgd", "training.learning_rate=0.5", "training.max_grad_norm=0")
    one = "tasks={a0: {type: classification, labels: [no, yes]}}"
    return config_of(FARM, "training.batch_size=64", one, "training.num_rounds=1", *three, *steps, *more)


def test_a_part_is_averaged_over_those_who_have_it(tmp_path: Path) -> None:
    """Three sites of which one has no images: one step of SGD each, on all of its rows."""
    given = {"a": rows(1), "b": rows(2, 80), "c": rows(3, image=False)}
    run, again = (simulated(farms(f"simulation.workers={n}"), tmp_path / str(n), given) for n in (1, 2))
    assert digest_of(run) == digest_of(again)
    config, sizes = farms(), {"a": 30, "b": 60, "c": 30}
    moved: dict[str, dict[str, torch.Tensor]] = {}
    for site, values in given.items():
        train = task_data(config, site, values).train
        assert isinstance(train, ArrayExamples) and len(train) == sizes[site]
        model = make_model(config).model
        network = nn.Sequential(model.encoder, model.head("a0").linear)
        before = {name: value.detach().clone() for name, value in model.named_parameters()}
        batch = train.batch(np.arange(len(train)))
        functional.cross_entropy(network(batch.values), batch.labels).backward()
        torch.optim.SGD(network.parameters(), 0.5).step()
        moved[site] = {name: value.detach() - before[name] for name, value in model.named_parameters()}
    initial, found = dict(make_model(config).model.named_parameters()), make_model(config)
    found.load_vectors(run.vectors)
    for name, value in found.model.named_parameters():
        holders = ("a", "b") if ".parts.image." in name else ("a", "b", "c")
        weight = sum(sizes[site] for site in holders)
        step = sum(sizes[site] / weight * moved[site][name] for site in holders)
        assert step.abs().max() > 0 or name == "encoder.missing.table", name
        torch.testing.assert_close(value, initial[name] + step, rtol=0, atol=1e-6, msg=name)


def test_who_lacks_a_part_neither_receives_nor_returns_its_encoder(tmp_path: Path) -> None:
    run = simulated(farms(), tmp_path, {"a": rows(1), "b": rows(2), "c": rows(3, image=False)})
    clients = run.writer.state.clients
    held = {name: run.settings.scopes_of(client, ("a0",)) for name, client in clients.items()}
    assert held["a"] == ("shared/part_image", "shared/part_table", "shared/top", "task/a0")
    assert held["c"] == ("shared/part_table", "shared/top", "task/a0")
    assert clients["c"].capabilities.capacity == Capacity(lacks=("image",))


def test_a_row_may_lack_a_part() -> None:
    encoder = FARM.build()
    x, _ = rows(4, 3)
    whole = np.concatenate([x["image"].reshape(3, -1), x["table"]], axis=1)
    whole[1, :24] = np.nan
    assert isinstance(encoder, nn.Module)
    parts = encoder.parts
    image, table = (lambda r: parts["image"](r[None])), (lambda r: parts["table"](r[None]))
    nn.init.normal_(encoder.missing["image"])
    found = encoder(torch.from_numpy(whole))
    for row, values in enumerate(torch.from_numpy(whole)):
        both = [table(values[24:]), image(values[:24]) if row != 1 else encoder.missing["image"][None]]
        mean = torch.relu(torch.stack(both).mean(dim=0))
        torch.testing.assert_close(found[row][None], torch.relu(encoder.pooler(mean)), rtol=0, atol=1e-6)
    found.sum().backward()
    assert encoder.missing["table"].grad is None and encoder.missing["image"].grad.abs().max() > 0
    assert all(torch.isfinite(p.grad).all() for p in encoder.parts.parameters())


# ---- files ----


def test_an_array_per_part(tmp_path: Path) -> None:
    x, y = rows(5, 12)
    image = (255 * np.random.Generator(np.random.PCG64(1)).random((12, 6, 4))).astype(np.uint8)
    has = np.arange(12) % 3 > 0
    np.savez(tmp_path / "mine.npz", table=x["table"], image=image, has_image=has, y=y)
    data = read_rows(tmp_path, MINE, FARM, seed=1)
    assert isinstance(data.train, ArrayExamples) and isinstance(data.validation, ArrayExamples)
    found = np.concatenate([data.train.values, data.validation.values])
    order, wanted = np.argsort(found[:, 24]), np.argsort(x["table"][:, 0])
    np.testing.assert_array_equal(found[order][:, 24:], x["table"][wanted])
    pixels = np.where(has[:, None], image.reshape(12, -1).astype(np.float32) / np.float32(255), np.nan)
    np.testing.assert_array_equal(found[order][:, :24], pixels[wanted])
    assert data.headers[0].names == ("image 1x6x4", "table 3")


@pytest.mark.parametrize(
    ("arrays", "line"),
    [
        ({"x": np.zeros((2, 3))}, "no array is called image, table; present are x"),
        ({"table": np.zeros((2, 4))}, "part table: rows have 4 features, model.mlp.features is 3; change one"),
        ({"train_images": np.zeros((2, 6, 4)), "train_labels": np.zeros(2)}, "no array is called image, table"),
        ({"table": np.zeros((3, 3))}, "3 rows, but 'y' has 2"),
        ({"table": np.full((2, 3), np.nan)}, "row 1: it has no part at all; remove it"),
        ({"table": np.array([[1, np.inf, 1], [1, 1, 1]])}, "part table, row 1, feature 2: inf is not a finite"),
        ({"table": np.zeros((2, 3)), "image": np.zeros((3, 6, 4))}, r"the parts differ in their number of rows"),
        ({"table": np.zeros((2, 3)), "has_table": np.zeros(2)}, r"array 'has_table' must be bool \(2,\)"),
    ],
)
def test_what_is_wrong_with_parts_is_one_line(tmp_path: Path, arrays: dict[str, Any], line: str) -> None:
    np.savez(tmp_path / "mine.npz", **arrays, y=np.array(["no", "yes"]))
    with pytest.raises(DataError, match=line):
        read_rows(tmp_path, MINE, FARM, seed=1)


@pytest.mark.parametrize(
    ("parts", "line"),
    [
        ({}, "parts: 0 of them"),
        ({"Image": IMAGE}, "parts: 'Image' is no name"),
        ({"image": {"conv3d": {}}}, "parts.image: not an encoder with its parameters; write one of mlp, tabular"),
        ({"image": {"conv2d": {}}}, "parts.image.conv2d.shape: missing; add it"),
        ({"image": {"conv2d": 3}}, "parts.image.conv2d: '3' is no section"),
        ({"image": {"mlp": {"features": 0}}}, "parts.image: encoder of type 'mlp': features: 0 is out of range"),
        ({"image": {"mlp": {"features": 3, "more": 1}}}, "parts.image: encoder of type 'mlp': its description has"),
        ({"image": {"several": {"parts": {}}}}, "parts.image: not an encoder with its parameters"),
    ],
)
def test_impossible_parts_are_one_line(parts: dict[str, Any], line: str) -> None:
    assert SeveralEncoder(parts).problems()[0].startswith(line)
    described = json.dumps({"model_type": "several", "parts": parts, "hidden": 8, "dropout": 0.0})
    with pytest.raises(ModelError, match="encoder of type 'several'"):
        encoder_described(described)


def test_a_description_is_read_back_with_all_parameters() -> None:
    described = FARM.describe()
    again = encoder_described(described)
    assert again.describe() == described and again.row_shape == (27,)
    assert json.loads(described)["parts"]["image"]["conv2d"]["kernel"] == 3


def test_rules_that_mix_parts_are_refused_for_those_who_lack_one() -> None:
    blocks = {"group/{1}": frozenset({"part_image", "part_table"}), "task/a": frozenset({"heads"})}
    assert capacity_problem(Capacity(), blocks) is None
    problem = capacity_problem(Capacity(lacks=("image",)), blocks)
    assert problem is not None and "a client without rows of image would train a part of scope 'group/{1}'" in problem
