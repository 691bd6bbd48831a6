"""Tasks with a class or a number per pixel: the same bits everywhere, a plain loop, metrics of scikit-learn."""

from __future__ import annotations

import asyncio
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import nn
from torch.nn import functional

from client.app import load_data
from client.data.array_examples import ArrayExamples
from client.training.evaluation import evaluate
from common.parameters.flat import tensors_of
from common.statistics import TaskStatistics, merge
from common.targets import TargetUnits
from common.tasks import TaskDefinition
from common.tasks.dense import UNLABELLED
from server.reporting.report import round_scores
from simulation.population import VirtualClient
from simulation.virtual_clients import run_virtual_clients
from tests.dense_cases import CLIENTS, DEPTHS, HEIGHT, SEGMENTS, WIDTH, dense_config, images
from tests.federations import digest_of, federate, make_model

MIN = "federation.min_clients=4"


def shares(part: str) -> tuple[int, int]:
    number, of = part.split("/")
    return int(number), int(of)


@pytest.mark.parametrize("encoder", [None, "Net"])
@pytest.mark.parametrize("plan", ["hard", "private_heads", "adaptive"])
def test_one_model_over_grpc_and_in_a_simulation(tmp_path: Path, plan: str, encoder: str | None) -> None:
    config = dense_config(tmp_path, f"sharing.plan={plan}", MIN, encoder=encoder)
    found = [asyncio.run(federate(config, tmp_path / how, CLIENTS, how)) for how in ("direct", "grpc")]
    clients = [VirtualClient(name, dict.fromkeys(tasks, shares(part))) for name, tasks, part in CLIENTS]
    for workers in (1, 2):
        pool = dense_config(tmp_path, f"sharing.plan={plan}", MIN, f"simulation.workers={workers}", encoder=encoder)
        run = run_virtual_clients(pool, make_model(pool), clients, tmp_path / f"simulation-{workers}")
        found.append(asyncio.run(run)[0])
    assert len({digest_of(run) for run in found}) == 1
    scores = [round_scores(run.settings.tasks, run.journal.rounds()[-1]) for run in found]
    assert all(each == scores[0] for each in scores) and set(scores[0]) == {"parts", "depth", "full"}
    assert 0 < scores[0]["parts"].scores["iou"] < 1 and scores[0]["depth"].scores["rmse"] < 30


class PlainHead(nn.Module):
    """What a head over maps of 6 channels computes, written down once more."""

    def __init__(self, outputs: int) -> None:
        super().__init__()
        layers = nn.Conv2d(6, 6, 3, padding=1), nn.ReLU(), nn.Conv2d(6, outputs, 1)
        self.net = nn.Sequential(*layers, nn.Upsample((HEIGHT, WIDTH), mode="bilinear"))

    def forward(self, maps: torch.Tensor) -> torch.Tensor:
        return self.net(maps)


def test_training_alone_is_a_plain_loop_of_torch(tmp_path: Path) -> None:
    """One client with all three tasks, full batches: each round is a step of SGD on all rows."""
    steps = ("training.num_rounds=3", "training.batch_size=64", "training.optimizer=sgd", "training.learning_rate=0.2")
    config = dense_config(tmp_path, *steps, "training.max_grad_norm=0")
    run = asyncio.run(federate(config, tmp_path / "run", (("a", ("parts", "depth", "full"), "1/1"),)))
    model = make_model(config).model
    data = {name: rows.train for name, rows in load_data(config, config.definitions()).items()}
    heads = {"parts": PlainHead(3), "depth": PlainHead(1)}
    for name, head in heads.items():
        head.load_state_dict(dict(zip(head.state_dict(), model.head(name).state_dict().values(), strict=True)))
    assert isinstance(model.encoder, nn.Module)
    layers, pooler, linear = model.encoder.layers, model.encoder.pooler, model.head("full").linear
    parameters = [p for module in (layers, pooler, linear, *heads.values()) for p in module.parameters()]
    optimizer, units = torch.optim.SGD(parameters, 0.2), run.state.units["depth"]
    assert 950 < units.mean < 1050 and units.scale > 1
    for _ in range(3):
        optimizer.zero_grad()
        for name, rows in data.items():
            assert isinstance(rows, ArrayExamples)
            maps = torch.from_numpy(rows.values).float() / 255
            for layer in layers:
                maps = layer(maps)
            labels = torch.from_numpy(rows.labels)
            if name == "full":
                functional.cross_entropy(linear(torch.relu(pooler(maps.mean((2, 3))))), labels).backward()
            elif name == "parts":
                outputs, known = heads[name](maps).permute(0, 2, 3, 1), labels != UNLABELLED
                functional.cross_entropy(outputs[known], labels[known].long()).backward()
            else:
                outputs, known = heads[name](maps)[:, 0], ~labels.isnan()
                functional.mse_loss(outputs[known], (labels[known] - units.mean) / units.scale).backward()
        optimizer.step()
    for name, head in heads.items():
        model.head(name).load_state_dict(
            dict(zip(model.head(name).state_dict(), head.state_dict().values(), strict=True))
        )
    found = make_model(config)
    found.load_vectors(run.vectors)
    for (path, expected), value in zip(tensors_of(model).items(), tensors_of(found.model).values(), strict=True):
        torch.testing.assert_close(value, expected, rtol=0, atol=1e-6, msg=path)


def test_heads_learn_what_pixels_show(tmp_path: Path) -> None:
    rounds = ("training.num_rounds=1", "training.local_epochs=60", "training.learning_rate=2e-2")
    shape = f"model.conv2d={{shape: [2, {HEIGHT}, {WIDTH}], filters: [8], pooling: 1, hidden: 4}}"
    config = dense_config(tmp_path, *rounds, shape)
    run = asyncio.run(federate(config, tmp_path / "run", (("a", ("parts", "depth", "full"), "1/1"),)))
    model = make_model(config)
    model.load_vectors(run.vectors)
    found = {}
    for task in config.definitions()[:2]:
        data, units = load_data(config, [task])[task.name], run.state.units.get(task.name, TargetUnits())
        found[task.name] = task.summarise(evaluate(model.model, task, data.validation, 4, units))
    assert found["parts"]["iou"] > 0.6 and found["depth"]["rmse"] < 5 and found["depth"]["pearson"] > 0.9


# ---- metrics ----


def said_of(task: TaskDefinition, targets: Any, seed: int) -> Any:
    """Outputs that are often right, (rows, outputs, height, width)."""
    rng = np.random.default_rng(seed)
    if not task.labels:
        return np.nan_to_num(targets, nan=0.0)[:, None] + rng.normal(0, 5, size=(len(targets), 1, HEIGHT, WIDTH))
    right = np.moveaxis(np.eye(256)[targets][..., : task.outputs], -1, 1)
    return right + rng.normal(size=right.shape)


def measured(task: TaskDefinition, outputs: Any, targets: Any) -> TaskStatistics:
    return task.type.measure(task, outputs, task.type.targets(task, targets), 0.0)


@pytest.mark.parametrize("seed", range(4))
def test_scores_of_several_clients_are_those_of_scikit_learn(seed: int) -> None:
    oracle = pytest.importorskip("sklearn.metrics", reason="scikit-learn is not installed")
    _, classes, depth = images(seed, 9)
    if seed == 1:
        classes[classes == 2] = UNLABELLED  # predicted, and nowhere true
    task = replace(SEGMENTS, metrics=SEGMENTS.type.metrics)
    outputs, known = said_of(task, classes, seed), classes != UNLABELLED
    parts = [measured(task, outputs[at::3], classes[at::3]) for at in range(3)]
    assert all(map(task.fits, parts))
    found, said = task.summarise(merge(parts)), outputs.argmax(axis=1)[known]
    assert found["iou"] == pytest.approx(oracle.jaccard_score(classes[known], said, average="macro"), abs=1e-12)
    assert found["pixel_accuracy"] == pytest.approx(oracle.accuracy_score(classes[known], said), abs=1e-12)
    outputs, known = said_of(DEPTHS, depth, seed), ~np.isnan(depth)
    parts = [measured(DEPTHS, outputs[at::3], depth[at::3]) for at in range(3)]
    assert all(map(DEPTHS.fits, parts))
    found, said, true = DEPTHS.summarise(merge(parts)), outputs[:, 0][known], depth[known].astype(np.float32)
    assert found["mse"] == pytest.approx(oracle.mean_squared_error(true, said), rel=1e-6)
    assert found["rmse"] == pytest.approx(oracle.root_mean_squared_error(true, said), rel=1e-6)
    assert found["mae"] == pytest.approx(oracle.mean_absolute_error(true, said), rel=1e-6)


@pytest.mark.parametrize("task", [SEGMENTS, DEPTHS], ids=lambda task: task.name)
def test_what_is_said_of_pixels_without_a_label_changes_nothing(task: TaskDefinition) -> None:
    _, classes, depth = images(3, 5)
    targets = task.type.targets(task, classes if task.labels else depth)
    unknown = targets == UNLABELLED if task.labels else np.isnan(targets)
    assert unknown.any()
    outputs = said_of(task, targets, 1)
    others = np.where(unknown[:, None], outputs + 1e3, outputs)
    assert measured(task, outputs, targets) == measured(task, others, targets)
    tensors = torch.tensor(outputs, dtype=torch.float32, requires_grad=True)
    for reduction in ("mean", "sum", "none"):
        losses = [
            task.type.loss(each, torch.from_numpy(targets), reduction)
            for each in (tensors, torch.tensor(others, dtype=torch.float32))
        ]
        torch.testing.assert_close(losses[0], losses[1])
    task.type.loss(tensors, torch.from_numpy(targets)).backward()
    assert tensors.grad is not None
    assert not tensors.grad.movedim(1, -1)[torch.from_numpy(unknown)].any()
    assert tensors.grad.movedim(1, -1)[torch.from_numpy(~unknown)].any()


def test_scores_are_sums_over_batches() -> None:
    """Whatever the batches, and with the loss of labelled pixels."""
    _, classes, _ = images(4, 7)
    targets = SEGMENTS.type.targets(SEGMENTS, classes)
    outputs = said_of(SEGMENTS, targets, 2).astype(np.float32)
    pairs = [(torch.from_numpy(outputs[at : at + 3]), torch.from_numpy(targets[at : at + 3])) for at in range(0, 7, 3)]
    found = SEGMENTS.type.score(SEGMENTS, pairs, np.arange(7))
    whole = measured(SEGMENTS, outputs.astype(float), classes)
    known = targets != UNLABELLED
    rows = torch.from_numpy(outputs).permute(0, 2, 3, 1)[torch.from_numpy(known)]
    loss = functional.cross_entropy(rows, torch.from_numpy(targets[known]).long(), reduction="sum").item()
    assert replace(found, loss_sum=0.0) == whole and found.loss_sum == pytest.approx(loss, rel=1e-5)
    assert found.examples == known.sum()


def test_weights_of_classes_multiply_the_loss_of_their_pixels() -> None:
    """Balanced: n / (k n_c) of n labelled pixels of all clients."""
    targets = np.full((2, HEIGHT, WIDTH), UNLABELLED, dtype=np.uint8)
    targets[0, 0, :6], targets[1, 0, :2] = 0, 1
    sums = SEGMENTS.type.target_sums(SEGMENTS, targets)
    assert sums.counts == (6, 2, 0) and SEGMENTS.type.sums_fit(SEGMENTS, sums, 2)
    assert SEGMENTS.type.balanced_weights((600, 200, 400), 2) == pytest.approx((2 / 3, 2, 1), abs=1 / 16)
    outputs = torch.randn(2, 3, HEIGHT, WIDTH, generator=torch.Generator().manual_seed(1))
    rows = functional.cross_entropy(outputs, torch.from_numpy(targets).long(), ignore_index=255, reduction="none")
    weights = TargetUnits(weights=(1.0, 3.0, 1.0))
    found = SEGMENTS.type.loss(outputs, torch.from_numpy(targets), "mean", weights)
    assert found.item() == pytest.approx((rows[0].sum() + 3 * rows[1].sum()).item() / 8, rel=1e-6)


# ---- what others say ----


def good(task: TaskDefinition) -> TaskStatistics:
    _, classes, depth = images(2, 3)
    targets = classes if task.labels else depth
    return replace(measured(task, said_of(task, targets, 1), targets), loss_sum=1.0)


@pytest.mark.parametrize(
    ("task", "change"),
    [
        (SEGMENTS, {"examples": 0}),
        (SEGMENTS, {"labels": (1, 2)}),
        (SEGMENTS, {"right": 0}),
        (SEGMENTS, {"means": (("auc_mean", 0.5, 1),)}),
        (DEPTHS, {"moments": ()}),
        (DEPTHS, {"moments": (0.0, 0.0, 1.0, 1.0, 0.0, 1.0)}),
        (DEPTHS, {"means": (("spearman_mean", 0.5, 1),)}),
        (DEPTHS, {"sums": ()}),
    ],
)
def test_statistics_that_no_pixels_have_do_not_fit(task: TaskDefinition, change: dict[str, Any]) -> None:
    assert task.fits(good(task)) and not task.fits(replace(good(task), **change))


def test_no_scores_are_of_more_pixels_than_there_are(tmp_path: Path) -> None:
    config = dense_config(tmp_path, MIN)
    run = asyncio.run(federate(config, tmp_path / "run", CLIENTS))
    parts = run.settings.parts_of("parts")
    assert parts == 2 * HEIGHT * WIDTH and SEGMENTS.type.most_scored(3, parts) == 3 * parts
    counts = replace(SEGMENTS.type.target_sums(SEGMENTS, np.zeros((2, 4, 4), np.uint8)), counts=(1, 0, 0))
    assert not SEGMENTS.type.sums_fit(SEGMENTS, counts, 2)  # fewer pixels than rows
