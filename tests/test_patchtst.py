"""PatchTST of transformers as an encoder over sequences."""

from __future__ import annotations

import asyncio
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import nn
from torch.nn import functional
from transformers import PatchTSTModel

from client.app import load_data
from client.data.array_examples import ArrayExamples
from common.encoders.patchtst import PatchTSTEncoder
from common.errors import ConfigError
from common.export.folder import export_task
from common.inputs.arrays import ArrayBatch, encoder_described
from common.models.multitask import MultiTaskModel, initialise
from common.models.patchtst import config_of as hugging_face
from common.models.trained import TrainedTask
from common.orders import ModelArchitecture
from common.tasks import TASK_KINDS, TaskDefinition
from simulation.population import population
from simulation.virtual_clients import run_virtual_clients
from tests.federations import digest_of, federate, make_model
from tests.test_array_encoders import CLIENTS, KIND, MIN, config_of
from tests.test_export_formats import run_onnx

SMALL = PatchTSTEncoder((13, 2), patch=4, stride=2, hidden=8, layers=2, heads=2)
BATCH = replace(SMALL, norm="batch", scaled=False)


@pytest.mark.parametrize("encoder", [SMALL, BATCH])
def test_it_is_transformers_own_model_with_the_mean_over_patches(encoder: PatchTSTEncoder) -> None:
    made, net = encoder.build(), PatchTSTModel(hugging_face(encoder)).eval()
    assert isinstance(made, nn.Module) and encoder_described(encoder.describe()) == encoder
    made.eval().net.load_state_dict(net.state_dict())
    rows = torch.randn(3, 13, 2) * 4 + 1
    with torch.no_grad():
        expected = net(past_values=rows).last_hidden_state.mean(dim=2).flatten(1)
        torch.testing.assert_close(made(rows), expected, rtol=0, atol=1e-6)
        assert torch.allclose(made(rows), made(3 * rows + 1), atol=1e-3) == encoder.scaled
    assert expected.shape == (3, made.config.hidden_size) == (3, 16)


@pytest.mark.slow
@pytest.mark.parametrize("plan", ["private_heads", "hard", "adaptive"])
def test_one_model_over_every_transport_and_in_a_simulation(tmp_path: Path, plan: str) -> None:
    config = config_of(SMALL, MIN, f"sharing.plan={plan}")
    found = {how: asyncio.run(federate(config, tmp_path / how, CLIENTS, how)) for how in ("direct", "grpc")}
    assert len({digest_of(run) for run in found.values()}) == 1
    digests = set()
    for workers in (1, 2):
        pool = config_of(SMALL, f"simulation={{clients: 4, workers: {workers}}}", f"sharing.plan={plan}")
        run = run_virtual_clients(pool, make_model(pool), population(pool), tmp_path / str(workers))
        digests.add(digest_of(asyncio.run(run)[0]))
    assert len(digests) == 1


@pytest.mark.parametrize("encoder", [SMALL, BATCH])
def test_training_alone_is_a_plain_loop_of_torch(tmp_path: Path, encoder: PatchTSTEncoder) -> None:
    one, full = "tasks={a0: " + KIND + "}", ("training.batch_size=64", "training.max_grad_norm=0")
    steps = ("training.num_rounds=3", "training.optimizer=sgd", "training.learning_rate=0.1", *full)
    config = config_of(encoder, one, *steps, "sharing.norm_statistics=shared")
    run = asyncio.run(federate(config, tmp_path, (("a", ("a0",), "1/1"),)))
    rows = load_data(config, config.definitions())["a0"].train
    assert isinstance(rows, ArrayExamples)
    batch, start = rows.batch(np.arange(len(rows))), make_model(config).model
    net, head = PatchTSTModel(hugging_face(encoder)).train(), start.head("a0").linear
    assert isinstance(head, nn.Linear)
    net.load_state_dict(start.encoder.net.state_dict())  # type: ignore[attr-defined]
    optimizer = torch.optim.SGD([*net.parameters(), *head.parameters()], 0.1)
    for _ in range(3):
        optimizer.zero_grad()
        vectors = net(past_values=batch.values).last_hidden_state.mean(dim=2).flatten(1)
        functional.cross_entropy(head(vectors), batch.labels).backward()
        optimizer.step()
    found = make_model(config)
    found.load_vectors(run.vectors)
    trained = found.model.encoder.net.state_dict()  # type: ignore[attr-defined]
    for name, expected in net.state_dict().items():
        if "num_batches" not in name:
            torch.testing.assert_close(trained[name], expected, rtol=0, atol=1e-6, msg=name)
    torch.testing.assert_close(found.model.head("a0").linear.weight, head.weight, rtol=0, atol=1e-6)


def test_plans_by_layer_find_its_layers() -> None:
    schemas = make_model(config_of(SMALL, "sharing.plan=fedper")).schemas
    parts = {scope: {".".join(e.name.split(".")[:3]) for e in s.entries} for scope, s in schemas.items()}
    assert parts["private"] == {"encoder.layers.1"}
    assert parts["shared"] == {"encoder.layers.0", "encoder.embeddings.patches", "encoder.embeddings.positions"}


COUGH = TaskDefinition("cough", TASK_KINDS["classification"], ("no", "yes"), False, ("accuracy",))


@pytest.mark.slow
@pytest.mark.parametrize("form", ["torch", "onnx"])
def test_what_is_exported_computes_the_same(tmp_path: Path, form: str) -> None:
    model = MultiTaskModel(ModelArchitecture(SMALL.describe(), "cross", 32, "", 0), [COUGH])
    initialise(model, 3)
    export_task(TrainedTask(model, COUGH, "the model of round 3"), tmp_path / "out", form)
    rows = torch.randn(5, 13, 2)
    with torch.inference_mode():
        expected = model.eval()("cough", ArrayBatch(rows))
    if form == "onnx":
        found = run_onnx(tmp_path / "out", values=rows.numpy())
    else:
        found = torch.export.load(tmp_path / "out" / "model.pt2").module()(rows)
    torch.testing.assert_close(found, expected, rtol=0, atol=1e-5)


@pytest.mark.parametrize(
    ("change", "line"),
    [
        ("shape=[4, 2]", "model.patchtst.patch: 4 steps of a length of 4 are not several; write a smaller one"),
        ("hidden=9", "model.patchtst.hidden: 9 is no even multiple of 2 heads; write e.g. 32"),
        ("shape=[13]", "model.patchtst.shape: 1 numbers; write length and channels"),
        ("norm=group", "model.patchtst.norm: 'group' is not a choice; write layer or batch"),
    ],
)
def test_what_cannot_be_is_one_line(change: str, line: str) -> None:
    with pytest.raises(ConfigError) as caught:
        config_of(SMALL, f"model.patchtst.{change}")
    assert caught.value.problems[0].startswith(line), caught.value.problems
