"""Whole federations in one process: the laws that every transport and every order of arrival must keep."""

import asyncio
import copy

import numpy as np
import pytest
import torch
from torch.nn import functional

from client.data.batching import epoch_batches
from client.data.examples import prepare
from common.models.packed_tokenizer import unpack_tokenizer
from common.seeds import derive_seed
from server.core.facts import RunFacts
from server.core.phases import EVALUATE, TRAIN, Phase
from server.reporting.report import build_report
from server.reporting.values import to_json
from tests.federations import CLIENTS, digest_of, federate, make_client, make_model, small_config


def reference_fedavg(config, clients):
    """Plain FedAvg over one model object: local AdamW, example-weighted means, encoder over all, heads by task."""
    server = make_model(config)
    reader, settings = unpack_tokenizer(server.tokenizer_bytes), config.training
    tasks = {task.name: task for task in config.definitions()}
    for number in range(1, settings.num_rounds + 1):
        before = {name: p.detach().double().clone() for name, p in server.model.named_parameters()}
        sums = {name: torch.zeros_like(value) for name, value in before.items()}
        weights = dict.fromkeys(before, 0)
        for client, names, partition in clients:
            rows = make_client(config, client, names, partition).data
            sets = {n: prepare(rows[n].train, tasks[n], server.architecture, reader) for n in names}
            local = copy.deepcopy(server.model).train()
            groups = [{"params": local.encoder.parameters()}, {"params": local.heads.parameters(), "lr": 3e-3}]
            optimizer = torch.optim.AdamW(groups, lr=settings.learning_rate, weight_decay=0.0, fused=True)
            seed = derive_seed(config.run.seed, number, client, "training")
            for epoch in range(settings.local_epochs):
                batches = {
                    n: epoch_batches(s.lengths, settings.batch_size, derive_seed(seed, epoch, n))
                    for n, s in sets.items()
                }
                for step in range(max(map(len, batches.values()))):
                    loss = 0.0
                    for n, s in sets.items():  # all sets are equally long here, so every task is in every step
                        batch = s.batch(batches[n][step])
                        loss = loss + functional.cross_entropy(local(n, batch), batch.labels)
                    optimizer.zero_grad()
                    loss.backward()
                    torch.nn.utils.clip_grad_norm_(local.parameters(), settings.max_grad_norm)
                    optimizer.step()
            for name, parameter in local.named_parameters():
                task = name.split(".")[1] if name.startswith("heads.") else None
                count = len(sets[task]) if task in sets else 0 if task else sum(map(len, sets.values()))
                sums[name] += count * (parameter.detach().double() - before[name])
                weights[name] += count
        with torch.no_grad():
            for name, parameter in server.model.named_parameters():
                if weights[name]:
                    parameter.copy_(before[name] + sums[name] / weights[name])
    return {name: p.detach().numpy() for name, p in server.model.named_parameters()}


def test_the_service_equals_a_plain_fedavg_loop(tmp_path):
    config = small_config(tmp_path, "training.local_epochs=2", dropout=0.0)
    coordinator = asyncio.run(federate(config, tmp_path / "state", how="grpc", shuffle=1))
    expected = reference_fedavg(config, CLIENTS)
    model = make_model(config)
    model.load_vectors(coordinator.vectors)
    moved = 0.0
    start = {name: p.detach().numpy() for name, p in make_model(config).model.named_parameters()}
    for name, parameter in model.model.named_parameters():
        np.testing.assert_allclose(parameter.detach().numpy(), expected[name], rtol=0, atol=1e-6, err_msg=name)
        moved = max(moved, float(np.abs(expected[name] - start[name]).max()))
    assert moved > 1e-4


def test_transport_and_order_of_arrival_leave_no_trace_in_the_model(tmp_path):
    config = small_config(tmp_path)
    runs = [("direct", None), ("direct", 1), ("direct", 2), ("codec", 3), ("grpc", 4), ("grpc", None)]
    digests = {
        (how, shuffle): digest_of(asyncio.run(federate(config, tmp_path / f"{how}{shuffle}", how=how, shuffle=shuffle)))
        for how, shuffle in runs
    }
    assert len(set(digests.values())) == 1, digests


def test_without_validation_rows_there_are_no_scores_and_the_same_model(tmp_path):
    digests = []
    for rows in (12, 0):
        config = small_config(tmp_path, "training.max_grad_norm=0", f"tasks.qqp.val_samples={rows}")
        coordinator = asyncio.run(federate(config, tmp_path / str(rows), how="codec"))
        digests.append(digest_of(coordinator))
        for round_ in coordinator.journal.rounds():
            results = [result for order in round_.orders.values() for result in order.results if result.task == "qqp"]
            assert results and all((result.validation is not None) == bool(rows) for result in results)
    assert digests[0] == digests[1]


def test_another_seed_gives_another_model(tmp_path):
    digests = {
        digest_of(asyncio.run(federate(small_config(tmp_path, f"run.seed={seed}"), tmp_path / str(seed))))
        for seed in (1, 2)
    }
    assert len(digests) == 2


def test_the_report_scores_the_published_model_of_every_round(tmp_path):
    config = small_config(tmp_path)
    coordinator = asyncio.run(federate(config, tmp_path / "state"))
    assert coordinator.state.phase is Phase.FINISHED
    rounds = coordinator.journal.rounds()
    assert [r.phase for r in rounds] == [TRAIN, TRAIN, EVALUATE]
    report = to_json(
        build_report(
            RunFacts(),
            0,
            coordinator.settings.tasks,
            rounds,
            coordinator.journal.clients(),
            "finished",
            digest_of(coordinator),
        )
    )
    for task, clients in (("sst2", ["a", "b", "d"]), ("qqp", ["c", "d"])):
        section = report["tasks"][task]
        assert [entry["round"] for entry in section["history"]] == [0, 1, 2]
        assert section["clients"] == clients and section["examples"] == 24 * len(clients)
        assert section["history"][-1]["validation_examples"] == 12 * len(clients)
        assert section["metrics"]["accuracy"] == section["history"][-1]["accuracy"]
    assert report["clients"]["d"]["tasks"] == ["qqp", "sst2"] and report["clients"]["d"]["rounds"] == 3


def test_private_heads_stay_where_they_are_and_still_learn(tmp_path):
    config = small_config(tmp_path, "sharing.plan=private_heads", "training.num_rounds=2")
    coordinator = asyncio.run(federate(config, tmp_path / "state"))
    assert set(coordinator.vectors) == {"shared"}
    orders = [order for round_ in coordinator.journal.rounds() for order in round_.orders.values()]
    assert {scope.scope for order in orders for scope in order.scopes} == {"shared"}
    assert (tmp_path / "state" / "a" / "memory" / "private.safetensors").is_file()


@pytest.mark.parametrize("plan", ["hard", "full", "private_heads"])
def test_every_plan_runs_over_the_codec(tmp_path, plan):
    config = small_config(tmp_path, f"sharing.plan={plan}", "training.num_rounds=1")
    coordinator = asyncio.run(federate(config, tmp_path / "state", how="codec"))
    assert coordinator.state.phase is Phase.FINISHED


def test_layers_can_be_kept_private_by_a_pattern(tmp_path):
    rules = "sharing.rules=[{'heads.{task}.*': 'task/{task}'}, {'encoder.encoder.layer.0.*': private}, {'*': shared}]"
    config = small_config(tmp_path, "sharing.plan=rules", rules, "training.num_rounds=1")
    coordinator = asyncio.run(federate(config, tmp_path / "state"))
    assert set(coordinator.vectors) == {"shared", "task/qqp", "task/sst2"}
    assert coordinator.state.versions["shared"] == 1
