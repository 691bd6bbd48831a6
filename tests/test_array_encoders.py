"""Encoders over images and sequences: rows in every layout, training in a federation, the same bits everywhere."""

from __future__ import annotations

import asyncio
import json
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import nn
from torch.nn import functional

from client.app import load_data
from client.data.array_examples import ArrayExamples
from client.data.array_loader import read_rows
from client.data.forms import FORMS
from client.state.store import RunStore
from client.training.evaluation import evaluate
from common.config import Config, load_config
from common.encoders.conv1d import Conv1dEncoder
from common.encoders.conv2d import Conv2dEncoder
from common.encoders.gru import GRUEncoder
from common.encoders.row import ArrayEncoder
from common.encoders.tabular import TabularEncoder
from common.errors import ConfigError, DataError, ModelError
from common.inputs import input_described
from common.inputs.arrays import encoder_described
from common.parameters.flat import tensors_of
from common.parameters.scope import is_private
from common.tasks import TASK_KINDS, TaskDefinition
from simulation.population import population
from simulation.virtual_clients import run_virtual_clients
from tests.federations import digest_of, federate, make_model

ENCODERS: dict[str, ArrayEncoder] = {
    "conv2d": Conv2dEncoder((3, 8, 6), (4, 6), hidden=5),
    "conv2d without norm": Conv2dEncoder((1, 8, 6), (4,), norm="none", hidden=5),
    "conv1d": Conv1dEncoder((12, 2), (4, 6), hidden=5),
    "gru": GRUEncoder((7, 2), hidden=5, layers=2),
    "tabular": TabularEncoder({"x": "number", "kind": ["p", "q", "r"], "y": "log", "size": ["s", "t"]}, (5,), 3),
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


# ---- files ----

GREY, COLOURS = Conv2dEncoder((1, 8, 6), (4,)), Conv2dEncoder((3, 8, 6), (4,))
PIXELS = np.random.Generator(np.random.PCG64(1)).integers(256, size=(12, 8, 6, 3), dtype=np.uint8)
ANSWERS = np.arange(12) % 2
MINE = TaskDefinition("mine", TASK_KINDS["classification"], ("no", "yes"), False, ("accuracy",))


def both(folder: Path, encoder: ArrayEncoder) -> np.ndarray:
    """All rows that are read of a task, in the order of their first numbers."""
    data = read_rows(folder, MINE, encoder, seed=1)
    assert isinstance(data.train, ArrayExamples) and isinstance(data.validation, ArrayExamples)
    assert data.headers[0].shape == encoder.row_shape
    return in_order(np.concatenate([data.train.values, data.validation.values]))


def in_order(rows: np.ndarray) -> np.ndarray:
    return rows[np.lexsort(rows.reshape(len(rows), -1).T[::-1])]


@pytest.mark.parametrize("channels_first", [False, True])
def test_channels_may_come_first_or_last_and_bytes_become_numbers_up_to_one(
    tmp_path: Path, channels_first: bool
) -> None:
    first = PIXELS.transpose(0, 3, 1, 2)
    np.savez(tmp_path / "mine.npz", x=first if channels_first else PIXELS, y=ANSWERS)
    found = both(tmp_path, COLOURS)
    np.testing.assert_array_equal(found, in_order(first))
    assert found.dtype == np.uint8
    batch = ArrayExamples(found, ANSWERS, FORMS["images"]).batch(np.arange(2))
    np.testing.assert_allclose(batch.values.numpy(), found[:2].astype(np.float32) / 255, rtol=1e-6)


def test_one_channel_needs_no_axis(tmp_path: Path) -> None:
    np.savez(tmp_path / "mine.npz", x=PIXELS[..., 0], y=ANSWERS)
    np.testing.assert_array_equal(both(tmp_path, GREY), in_order(PIXELS[:, None, :, :, 0]))
    np.savez(tmp_path / "mine.npz", x=PIXELS[:, :, 0, 0].astype(np.float32), y=ANSWERS)
    assert both(tmp_path, Conv1dEncoder((8, 1), (4,))).shape == (12, 8, 1)


def test_files_of_medmnist_have_both_splits(tmp_path: Path) -> None:
    parts = {"train": slice(0, 7), "val": slice(7, 10), "test": slice(10, 12)}
    arrays = {f"{name}_images": PIXELS[part] for name, part in parts.items()}
    arrays |= {f"{name}_labels": ANSWERS[part, None] for name, part in parts.items()}
    np.savez(tmp_path / "mine.npz", **arrays)
    data = read_rows(tmp_path, MINE, COLOURS, seed=1)
    assert (len(data.train), len(data.validation)) == (7, 3)
    np.testing.assert_array_equal(data.validation.values, PIXELS[7:10].transpose(0, 3, 1, 2))
    assert data.train.labels.tolist() == ANSWERS[:7].tolist()


@pytest.mark.parametrize("splits", [False, True])
def test_image_files_lie_in_a_folder_per_label(tmp_path: Path, splits: bool) -> None:
    image = pytest.importorskip("PIL.Image")
    for number, pixels in enumerate(PIXELS):
        folder = tmp_path / "mine" / (("validation" if number > 8 else "train") if splits else "")
        path = folder / MINE.labels[ANSWERS[number]] / f"{number:02}.png"
        path.parent.mkdir(parents=True, exist_ok=True)
        image.fromarray(pixels).save(path)
    np.testing.assert_array_equal(both(tmp_path, COLOURS), in_order(PIXELS.transpose(0, 3, 1, 2)))
    data = read_rows(tmp_path, MINE, COLOURS, seed=1)
    assert (len(data.train), len(data.validation)) == (9, 3)
    for rows in (data.train, data.validation):
        for values, label in zip(rows.values, rows.labels, strict=True):
            (number,) = [n for n, p in enumerate(PIXELS) if np.array_equal(p.transpose(2, 0, 1), values)]
            assert label == ANSWERS[number]
    assert both(tmp_path, GREY).shape == (12, 1, 8, 6)
    with pytest.raises(DataError, match=r"an image of 8x6 \(height x width\), wanted 6x8; resize it"):
        read_rows(tmp_path, MINE, Conv2dEncoder((3, 6, 8), (4,)), seed=1)
    next(tmp_path.rglob("*.png")).write_bytes(b"no image")
    with pytest.raises(DataError, match=r"png is not a readable image; write it again or remove it"):
        read_rows(tmp_path, MINE, COLOURS, seed=1)


@pytest.mark.parametrize(
    ("x", "encoder", "line"),
    [
        (PIXELS, GREY, "rows are 8x6x3, model.conv2d.shape is 1x8x6; change one"),
        (PIXELS[:, 0], Conv1dEncoder((5, 3), (4,)), "rows are 6x3, model.conv1d.shape is 5x3; change one"),
        (np.where(PIXELS == PIXELS, np.nan, 0), COLOURS, "row 1, feature 1: nan is not a finite float32"),
    ],
)
def test_rows_of_another_shape_are_refused(tmp_path: Path, x: np.ndarray, encoder: ArrayEncoder, line: str) -> None:
    np.savez(tmp_path / "mine.npz", x=x, y=ANSWERS)
    with pytest.raises(DataError, match=line):
        read_rows(tmp_path, MINE, encoder, seed=1)


def test_standardising_is_by_channel() -> None:
    rows = ArrayExamples(PIXELS.transpose(0, 3, 1, 2), ANSWERS, FORMS["images"])
    scaled = rows.on_scale(rows.row_scale())
    np.testing.assert_allclose(scaled.values.mean(axis=(0, 2, 3)), 0, atol=1e-6)
    np.testing.assert_allclose(scaled.values.std(axis=(0, 2, 3)), 1, atol=1e-6)


# ---- what they compute ----


@pytest.mark.parametrize("name", [*ENCODERS, "batch norm"])
def test_training_alone_is_a_plain_loop_of_torch(tmp_path: Path, name: str) -> None:
    """One client, one task, full batches: each round is a step of SGD on all rows."""
    encoder = ENCODERS.get(name, BATCH)
    one = "tasks={a0: " + KIND + "}"
    steps = ("training.num_rounds=3", "training.batch_size=64", "training.optimizer=sgd", "training.learning_rate=0.5")
    config = config_of(encoder, one, *steps, "training.max_grad_norm=0", "sharing.norm_statistics=shared")
    run = asyncio.run(federate(config, tmp_path, (("a", ("a0",), "1/1"),)))
    model = make_model(config).model
    rows = load_data(config, config.definitions())["a0"].train
    assert isinstance(rows, ArrayExamples)
    batch = rows.batch(np.arange(len(rows)))
    assert isinstance(model.encoder, nn.Module)
    network = nn.Sequential(model.encoder, model.head("a0").linear).train()
    optimizer = torch.optim.SGD(network.parameters(), 0.5)
    for _ in range(3):
        optimizer.zero_grad()
        functional.cross_entropy(network(batch.values), batch.labels).backward()
        optimizer.step()
    found = make_model(config)
    found.load_vectors(run.vectors)
    for (path, expected), value in zip(tensors_of(model).items(), tensors_of(found.model).values(), strict=True):
        torch.testing.assert_close(value, expected, rtol=0, atol=1e-6, msg=path)


@pytest.mark.slow
def test_convolutions_learn_the_patterns_of_generated_sequences(tmp_path: Path) -> None:
    rows = "train_samples: 400, val_samples: 200}"
    tasks = "tasks={a0: {type: classification, labels: [no, yes], metrics: [auc_mean], " + rows + "}"
    config = config_of(
        *(Conv1dEncoder((64, 3), (16, 16), hidden=16), tasks, "training.num_rounds=3"),
        *("training.local_epochs=10", "training.learning_rate=5e-3", "federation.min_clients=1"),
    )
    run = asyncio.run(federate(config, tmp_path, (("a", ("a0",), "1/1"),)))
    model = make_model(config)
    model.load_vectors(run.vectors)
    (task,) = config.definitions()
    data = load_data(config, [task])["a0"]
    assert task.summarise(evaluate(model.model, task, data.validation, 64))["auc_mean"] > 0.75


# ---- descriptions from elsewhere ----


@pytest.mark.parametrize("name", ENCODERS)
def test_a_description_is_read_back(name: str) -> None:
    described = ENCODERS[name].describe()
    assert encoder_described(described) == ENCODERS[name]
    assert input_described(described).name == ENCODERS[name].inputs


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"shape": [0, 8, 6]}, "shape: 0 is out of range"),
        ({"shape": [3, 8]}, "shape: 2 numbers; write channels, height and width"),
        ({"shape": [1, 100_000, 100_000]}, "is the most"),
        ({"filters": []}, "filters: is empty"),
        ({"filters": [4] * 101}, "filters: 101 of them; write at most 100"),
        ({"filters": "44"}, "filters is '44', of another type"),
        ({"kernel": 4}, "kernel: 4 has no middle"),
        ({"kernel": True}, "kernel is True, of another type"),
        ({"pooling": 9}, "leaves nothing of an edge of 6"),
        ({"norm": "layer"}, "norm is 'layer', of another type"),
        ({"dropout": 1.0}, "dropout: 1 is out of range"),
        ({"more": 1}, "its description has"),
    ],
)
def test_impossible_descriptions_are_one_line(changes: dict[str, object], words: str) -> None:
    with pytest.raises(ModelError, match=words) as caught:
        encoder_described(json.dumps({**json.loads(COLOURS.describe()), **changes}))
    assert "\n" not in caught.value.message


@pytest.mark.parametrize(
    ("changes", "line"),
    [
        ("model.conv2d.shape=[28, 28]", "model.conv2d.shape: 2 numbers; write channels, height and width"),
        ("model.conv2d.kernel=2", "model.conv2d.kernel: 2 has no middle; write an odd number"),
        ("model.conv2d.filters=[]", "model.conv2d.filters: is empty"),
        ("model.conv2d.norm=layer", "model.conv2d.norm: 'layer' is not a choice; write none, group or batch"),
        ("model.gru={shape: [5, 2]}", "model.gru: not read by server_model conv2d"),
        ("model.conv2d={filters: [3]}", "model.conv2d.shape: missing; add it"),
        ("tasks.a0.columns={features: [a, b]}", "tasks.a0.columns.features: images are in one column; name that alone"),
        ("model.max_length=64", "model.max_length: 64 is not for server_model conv2d"),
    ],
)
def test_contradictions_are_refused_at_load(changes: str, line: str) -> None:
    with pytest.raises(ConfigError) as caught:
        config_of(GREY, changes)
    assert any(problem.startswith(line) for problem in caught.value.problems), caught.value.problems


def test_plans_by_layer_find_the_layers() -> None:
    schemas = make_model(config_of(ENCODERS["conv2d"], "sharing.plan=fedper")).schemas
    private = {entry.name for scope, schema in schemas.items() if is_private(scope) for entry in schema.entries}
    assert {"encoder.layers.1.convolution.weight", "encoder.pooler.weight", "heads.a0.linear.bias"} <= private
    assert {entry.name.rpartition(".")[0] for entry in schemas["shared"].entries} == {
        "encoder.layers.0.convolution",
        "encoder.layers.0.norm",
    }
