"""The clients' optimizer: FedSGD is one central step, momentum by hand, and the compact vocabulary stays exact."""

from __future__ import annotations

import asyncio
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import nn

from client.app import load_data
from client.training.compact import compact_vocabulary
from client.training.loop import TaskSet, train
from client.training.optimizer import new_optimizer
from common.bodies import ScopeVersion, Train
from common.config import load_config, notes
from common.errors import ConfigError, WireError
from common.methods.local_optimizers import SGDOptimizer
from common.models.multitask import MultiTaskModel
from common.orders import Order, PollKind, PollReply, UpdateState
from common.wire.messages import POLL_REPLY
from tests.federations import array_config, digest_of, federate, make_model, small_config
from tests.training_cases import SETTINGS, make_sets, no_progress, values_of
from tests.training_cases import make_model as small_model

SGD = replace(SETTINGS, optimizer=SGDOptimizer(), learning_rate=0.3, head_learning_rate=0.3)
FULL = replace(SGD, local_epochs=1, batch_size=100, weight_decay=0.0)


def test_momentum_by_hand() -> None:
    """Gradient 1 each step, rate 0.5, momentum 0.5: m = 1, 1.5, 1.75, so w = 8 - 0.5, - 0.75, - 0.875.

    The row without a gradient stays, and weight decay pulls on matrices only: 0.5 x 0.1 x 8 = 0.4 more in step 1.
    """
    settings = replace(SGD, learning_rate=0.5, head_learning_rate=0.5, optimizer=SGDOptimizer(0.5), weight_decay=0.0)
    model = nn.Linear(1, 1)
    nn.init.constant_(model.weight, 8.0)
    nn.init.constant_(model.bias, 8.0)
    optimizer = new_optimizer(model, settings)
    found = []
    for _ in range(3):
        model.weight.grad = torch.ones_like(model.weight)
        optimizer.step()
        found.append(model.weight.item())
    assert found == [7.5, 6.75, 5.875] and model.bias.item() == 8.0
    nn.init.constant_(model.weight, 8.0)
    optimizer = new_optimizer(model, replace(settings, weight_decay=0.1))
    model.weight.grad, model.bias.grad = torch.ones_like(model.weight), torch.ones_like(model.bias)
    optimizer.step()
    assert (model.weight.item(), model.bias.item()) == (pytest.approx(7.1), 7.5)


def central_step(model: MultiTaskModel, sets: tuple[TaskSet, ...], rate: float) -> None:
    """One step of gradient descent on the sum of the tasks' mean losses over all their rows."""
    total = torch.zeros(())
    for item in sets:
        batch = item.train.batch(np.arange(len(item.train)))
        assert batch.labels is not None
        total = total + item.task.weight * item.task.type.loss(model(item.task.name, batch), batch.labels)
    model.zero_grad()
    total.backward()  # type: ignore[no-untyped-call]
    with torch.no_grad():
        for parameter in model.parameters():
            if parameter.grad is not None:
                parameter -= rate * parameter.grad


def close(one: MultiTaskModel, other: MultiTaskModel) -> None:
    mine, theirs = values_of(one), values_of(other)
    for name, value in mine.items():
        torch.testing.assert_close(value, theirs[name], rtol=0, atol=2e-6)


def test_one_full_batch_of_all_tasks_is_one_central_step() -> None:
    sets = make_sets(0)
    local, central = small_model(), small_model()
    for model in (local, central):
        for module in model.modules():
            if isinstance(module, nn.Dropout):
                module.p = 0.0
    start = values_of(local)
    train(local, sets, FULL, 9, no_progress)
    central.train()
    central_step(central, sets, FULL.learning_rate)
    close(local, central)
    assert any(float((values_of(local)[name] - start[name]).abs().max()) > 1e-2 for name in start)


def test_fedsgd_of_clients_that_share_a_task_is_one_step_on_their_pooled_rows(tmp_path: Path) -> None:
    """Weights n_k / n make the mean of the clients' mean gradients that of all rows (McMahan et al. 2017)."""
    settings = (
        *("training.optimizer=sgd", "training.learning_rate=0.5", "training.max_grad_norm=0"),
        *("training.batch_size=100", "training.num_rounds=1", "federation.min_clients=2"),
    )
    config = array_config(*settings, tasks=("a0",))
    clients = [("a", ("a0",), "1/2"), ("b", ("a0",), "2/2")]
    coordinator = asyncio.run(federate(config, tmp_path, clients))
    pooled, definitions = make_model(config), config.definitions()
    parts = []
    for _, _, partition in clients:
        section = config.model_copy(update={"data": config.data.model_copy(update={"partition": partition})})
        rows = load_data(section, definitions)["a0"]
        parts.append(TaskSet(definitions[0], rows.train, rows.validation))
    n = sum(len(part.train) for part in parts)
    weighted = [replace(part, task=replace(part.task, weight=len(part.train) / n)) for part in parts]
    before = {scope: vector.clone() for scope, vector in pooled.vectors.items()}
    central_step(pooled.model, tuple(weighted), 0.5)
    for scope, vector in pooled.vectors.items():
        torch.testing.assert_close(torch.from_numpy(coordinator.vectors[scope]), vector, rtol=0, atol=1e-6)
        assert float((vector - before[scope]).abs().max()) > 1e-3


@pytest.mark.parametrize("momentum", [0.0, 0.9])
def test_the_compact_vocabulary_is_exact_for_sgd(momentum: float) -> None:
    """A row without a gradient has no momentum either, so that it stays."""
    settings, found = (
        replace(SGD, optimizer=SGDOptimizer(momentum), learning_rate=0.03, head_learning_rate=0.03, local_epochs=3),
        [],
    )
    for compact in (False, True):
        model, sets = small_model(), make_sets(0)
        if compact:
            vocabulary = compact_vocabulary(model, sets)
            assert vocabulary is not None
            with vocabulary.in_place():
                losses = train(model, tuple(map(vocabulary.renumbered, sets)), settings, 9, no_progress)
        else:
            losses = train(model, sets, settings, 9, no_progress)
        found.append((values_of(model), losses))
    (whole, first), (compacted, second) = found
    assert first == second
    start, rows = values_of(small_model()), "encoder.embeddings.word_embeddings.weight"
    assert all(torch.equal(value, compacted[name]) for name, value in whole.items())
    still = (whole[rows] == start[rows]).all(dim=1)
    assert 100 < int(still.sum()) < len(still)


@pytest.mark.slow
def test_sgd_gives_one_model_over_every_transport(tmp_path: Path) -> None:
    config = small_config(
        tmp_path, "training.optimizer=sgd", "training.optimizer.momentum=0.9", "training.learning_rate=0.1"
    )
    plain = small_config(tmp_path, "training.optimizer=sgd", "training.learning_rate=0.1")
    digests = [
        digest_of(asyncio.run(federate(chosen, tmp_path / str(i), how=how)))
        for i, (chosen, how) in enumerate(((config, "direct"), (config, "grpc"), (plain, "direct")))
    ]
    assert digests[0] == digests[1] != digests[2]


def test_what_does_not_fit_is_refused_or_noted() -> None:
    with pytest.raises(ConfigError) as caught:
        load_config(None, ["tasks.sst2=", "training.optimizer.momentum=0.9"])
    assert caught.value.problems == ("training.optimizer.momentum: not read by adamw; write name: sgd, or remove it",)
    (note,) = notes(load_config(None, ["tasks.sst2=", "training.optimizer=sgd"]))
    assert note.startswith("training.learning_rate: 0.0002 is small for sgd")
    settings = replace(SGD, optimizer=SGDOptimizer(1.0))
    order = Order("o1", 1, 1, (ScopeVersion("shared", 1),), 60.0, Train(settings, seed=5))
    with pytest.raises(WireError, match="momentum: 1"):
        POLL_REPLY.decode(POLL_REPLY.encode(PollReply(PollKind.ORDER, UpdateState.NONE, order=order)))
