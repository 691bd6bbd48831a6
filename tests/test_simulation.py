"""Crowds of virtual clients: the bits of real ones, accidents that repeat, few models, going on after a kill."""

import asyncio
import gc
import json
import shutil
import tracemalloc
from collections.abc import Sequence
from contextlib import AsyncExitStack
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch

from client.agent import Agent
from client.app import local_definitions
from client.data.partitions import by_label, deal
from client.data.request import DataRequest
from client.data.sources import load
from client.jobs.local_client import Computing, local_client
from client.participation import Participation
from client.transport.grpc_port import GrpcCoordinator
from common.clock import ManualClock
from common.config import Config, load_config
from common.encoders.mlp import MLPEncoder
from common.errors import ConfigError, DataError
from common.inputs import INPUT_KINDS
from common.inputs.arrays import Numbers
from common.ports import INLINE_BYTES
from common.tasks import TASK_KINDS, TaskDefinition
from server.engine.coordinator import Coordinator
from server.reporting.report import personalisation
from server.reporting.values import to_json
from server.runs.assembly import in_memory
from server.service.grpc_server import start_server
from simulation.app import simulate
from simulation.codec import CodecCoordinator
from simulation.inprocess import run_together
from simulation.population import VirtualClient, population, rows_of
from simulation.virtual_clients import VirtualClients, run_virtual_clients, strikes
from tests.crashes import model_made_here
from tests.federations import array_config, digest_of, federate, make_model, small_config

MIXED = (
    VirtualClient("a", {"a0": (1, 3)}),
    VirtualClient("b", {"a0": (2, 3)}),
    VirtualClient("c", {"b1": (1, 2)}),
    VirtualClient("d", {"a0": (3, 3), "b1": (2, 2)}),
)
"""Several clients per task, and one with several tasks."""


def named(clients: Sequence[VirtualClient], **names: str) -> list[VirtualClient]:
    return [VirtualClient(c.client_id, {names[task]: share for task, share in c.shares.items()}) for c in clients]


async def virtual_run(
    config: Config, state: Path, clients: Sequence[VirtualClient], codec: bool = False
) -> tuple[Coordinator, VirtualClients]:
    return await run_virtual_clients(
        config, make_model(config), clients, state, wrap=CodecCoordinator if codec else None
    )


def simulated(config: Config, state: Path, clients: Sequence[VirtualClient], codec: bool = False) -> Coordinator:
    return asyncio.run(virtual_run(config, state, clients, codec))[0]


async def over_grpc(config: Config, state: Path, clients: Sequence[VirtualClient]) -> Coordinator:
    """The same clients as daemons are: each with a model and a store of its own, over real gRPC."""
    coordinator = in_memory(config, make_model(config), ManualClock())
    coordinator.writer.settings = replace(coordinator.settings, min_clients=len(clients))
    rows = rows_of(config, clients)
    computing = Computing(config.client.compact_vocabulary, config.client.precision)
    async with AsyncExitStack() as stack:
        server = await start_server(coordinator, "127.0.0.1", 0, None)
        stack.push_async_callback(server.stop, 0)
        agents = []
        for client in clients:
            name = client.client_id
            definitions = local_definitions(config, client.tasks)
            own = local_client(name, definitions, rows[name], torch.device("cpu"), computing=computing)
            port = await stack.enter_async_context(GrpcCoordinator("127.0.0.1", server.port_number, None, name))
            agents.append(Agent(port, own, state / name))
        await run_together(coordinator, agents)
    return coordinator


# ---- the same bits ----


@pytest.mark.parametrize("plan", ["hard", "private_heads", "fedper"])
def test_a_simulation_of_arrays_has_the_digest_of_real_clients(tmp_path, plan):
    config = array_config(f"sharing.plan={plan}", "simulation.workers=2", "model.mlp.hidden=[8, 8]")
    virtual = simulated(config, tmp_path / "virtual", MIXED)
    coded = simulated(config, tmp_path / "coded", MIXED, codec=True)
    real = asyncio.run(over_grpc(config, tmp_path / "real", MIXED))
    assert digest_of(virtual) == digest_of(coded) == digest_of(real)
    assert len({digest_of(virtual), digest_of(in_memory(config, make_model(config), ManualClock()))}) == 2


@pytest.mark.parametrize(
    "rule", ["={conflict: pcgrad}", "={robust: median, weights: uniform}", ".weights=task_balanced", ".optimizer=adam"]
)
def test_every_kind_of_rule_gives_the_same_in_both(tmp_path, rule):
    config = array_config(f"aggregation{rule}", "simulation.workers=2", "model.mlp.hidden=[8, 8]")
    virtual = simulated(config, tmp_path / "virtual", MIXED)
    assert digest_of(virtual) == digest_of(asyncio.run(over_grpc(config, tmp_path / "real", MIXED)))


def test_balanced_classes_are_the_same_in_both(tmp_path):
    weights = [f"tasks.{task}.class_weights=balanced" for task in ("a0", "b1")]
    config = array_config(*weights, "simulation.workers=2", "model.mlp.hidden=[8, 8]")
    virtual = simulated(config, tmp_path / "virtual", MIXED)
    assert all(found.weights != (1.0, 1.0) for found in virtual.writer.state.units.values())
    real = asyncio.run(over_grpc(config, tmp_path / "real", MIXED))
    assert digest_of(virtual) == digest_of(real)
    assert virtual.writer.state.units == real.writer.state.units and len(real.writer.state.units) == 2


def test_large_updates_are_lent_and_give_the_same(tmp_path):
    config = array_config(
        "model.mlp.hidden=[200, 200]", "aggregation={robust: median, weights: uniform}", "simulation.workers=2"
    )
    virtual = simulated(config, tmp_path / "virtual", MIXED)
    assert virtual.vectors["shared"].nbytes > 2 * INLINE_BYTES
    assert digest_of(virtual) == digest_of(asyncio.run(over_grpc(config, tmp_path / "real", MIXED)))


@pytest.mark.usefixtures("one_tokenizer")
def test_a_simulation_of_texts_has_the_digest_of_real_clients(tmp_path):
    config = small_config(tmp_path, "federation.min_clients=1")
    clients = named(MIXED, a0="sst2", b1="qqp")
    virtual = simulated(config, tmp_path / "virtual", clients)
    real = asyncio.run(over_grpc(config, tmp_path / "real", clients))
    assert digest_of(virtual) == digest_of(real)


def test_equal_shares_are_the_partitions_of_real_clients(tmp_path):
    config = array_config("simulation.clients=4", "federation.min_clients=4")
    clients = population(config)
    assert [(c.client_id, dict(c.shares)) for c in clients] == [
        ("client-1", {"a0": (1, 2)}),
        ("client-2", {"b1": (1, 2)}),
        ("client-3", {"a0": (2, 2)}),
        ("client-4", {"b1": (2, 2)}),
    ]
    daemons = [(c.client_id, c.tasks, f"{n}/{of}") for c in clients for n, of in c.shares.values()]
    real = asyncio.run(federate(config, tmp_path / "real", daemons))
    assert digest_of(simulated(config, tmp_path / "virtual", clients)) == digest_of(real)


def test_the_number_of_workers_leaves_no_trace(tmp_path):
    digests = set()
    for workers in (1, 3):
        config = array_config("simulation.clients=9", f"simulation.workers={workers}", "simulation.tasks_per_client=2")
        digests.add(digest_of(simulated(config, tmp_path / str(workers), population(config))))
    assert len(digests) == 1


# ---- who takes part, and with which rows ----


def test_clients_hold_tasks_in_turns_and_share_each_evenly():
    config = array_config("simulation.clients=12", "simulation.tasks_per_client=2", tasks=("t0", "t1", "t2"))
    clients = population(config)
    assert clients[0].client_id == "client-01"
    assert clients[2].tasks == ("t2", "t0")
    for task in config.tasks:
        shares = [client.shares[task] for client in clients if task in client.shares]
        assert shares == [(number, 8) for number in range(1, 9)]


def test_shares_by_label_are_whole_skewed_and_repeatable():
    classes = np.arange(600) % 3
    dealt = by_label(classes, 6, 0.1, 5, "t", "train")
    assert np.sort(np.concatenate(dealt)).tolist() == list(range(600))
    largest = [np.bincount(classes[rows], minlength=3).max() / len(rows) for rows in dealt]
    even = [
        np.bincount(classes[rows], minlength=3).max() / len(rows) for rows in by_label(classes, 6, 1e3, 5, "t", "x")
    ]
    assert np.mean(largest) > 0.7 > 0.45 > np.mean(even)
    again, other = by_label(classes, 6, 0.1, 5, "t", "train"), by_label(classes, 6, 0.1, 6, "t", "train")
    assert [rows.tolist() for rows in again] == [rows.tolist() for rows in dealt] != [rows.tolist() for rows in other]


def test_no_client_goes_without_rows():
    dealt = by_label(np.zeros(9, dtype=np.int64), 9, 0.01, 1, "t", "train")
    assert sorted(map(len, dealt)) == [1] * 9


@pytest.mark.parametrize("kind", [TASK_KINDS["classification"], TASK_KINDS["regression"]])
def test_rows_are_dealt_by_class_and_by_score(kind):
    labels = ("no", "yes") if kind is TASK_KINDS["classification"] else ()
    task = TaskDefinition("t", kind, labels, False, ("accuracy" if labels else "rmse",))
    request = DataRequest(
        task,
        "builtin",
        train_samples=30,
        val_samples=10,
        inputs="numbers",
        encoder=MLPEncoder(3),
        seed=4,
        statistics="site",
    )
    dealt = deal(request, 5, alpha=0.5)
    assert sum(len(part.train) for part in dealt) == 150
    assert sum(len(part.validation) for part in dealt) == 50
    assert np.allclose(dealt[0].train.values.mean(axis=0), 0, atol=1e-6)
    for number, part in enumerate(deal(request, 3), start=1):
        alone = load(replace(request, partition=(number, 3)))
        assert np.array_equal(alone.train.values, part.train.values)
        assert np.array_equal(alone.validation.labels, part.validation.labels)


def test_too_few_rows_are_refused(tmp_path):
    np.savez(tmp_path / "all.npz", task=np.zeros(8, dtype=int), x=np.ones((8, 5)), y=np.arange(8) % 2)
    config = array_config(f"data.dir='{tmp_path}'", "simulation.clients=7", tasks=("a0",))
    with pytest.raises(DataError, match="6 train rows are too few for 7 clients"):
        rows_of(config, population(config))


# ---- accidents ----


def test_accidents_strike_their_share_of_orders_and_repeat():
    struck = [strikes(0.2, 1, "dropout", f"train-1.1-{number}") for number in range(2000)]
    assert 330 < sum(struck) < 470
    assert struck == [strikes(0.2, 1, "dropout", f"train-1.1-{number}") for number in range(2000)]
    assert not strikes(0.0, 1, "dropout", "x")


def test_dropouts_and_stragglers_are_the_same_in_every_run(tmp_path):
    found = []
    for run, workers in (("one", 1), ("two", 2)):
        config = array_config(
            "simulation={clients: 20, dropouts: 0.2, stragglers: 0.2, workers: " + str(workers) + "}",
            "federation.quorum=0.2",
            "training.num_rounds=3",
        )
        coordinator = simulated(config, tmp_path / run, population(config))
        rounds = coordinator.journal.rounds()
        found.append({name: order.state.value for round_ in rounds for name, order in round_.orders.items()})
        assert coordinator.state.completed_rounds == 3
        found.append(digest_of(coordinator))
    assert found[:2] == found[2:]
    states = list(found[0].values())
    assert {"accepted", "failed", "expired"} == set(states)
    assert all(state == "accepted" for name, state in found[0].items() if name.startswith("evaluate"))


def test_time_passes_only_for_those_who_are_late(tmp_path):
    seconds = {}
    for late in (0.0, 0.3):
        config = array_config(f"simulation={{clients: 12, stragglers: {late}}}", "federation.quorum=0.1")
        coordinator = simulated(config, tmp_path / str(late), population(config))
        seconds[late] = coordinator._clock.now()
    assert seconds == {0.0: 0.0, 0.3: 2 * 1800.0}


def test_a_fraction_of_the_clients_is_chosen_anew_each_round(tmp_path):
    config = array_config("simulation.clients=20", "federation.client_fraction=0.3")
    rounds = simulated(config, tmp_path, population(config)).journal.rounds()
    chosen = [{order.client_id for order in r.orders.values()} for r in rounds if r.phase.publishes]
    assert [len(names) for names in chosen] == [6, 6]
    assert chosen[0] != chosen[1]


# ---- memory ----


@pytest.mark.slow
def test_memory_does_not_grow_with_the_number_of_clients(tmp_path, monkeypatch):
    built, kept = {}, {}
    real = INPUT_KINDS["numbers"].build_encoder
    for clients in (8, 136):
        config = array_config(f"simulation={{clients: {clients}, workers: 2}}", "model.mlp.hidden=[500]")
        made = built[clients] = []
        monkeypatch.setattr(Numbers, "build_encoder", lambda _, text, made=made: made.append(1) or real(text))
        tracemalloc.start()
        coordinator, virtual = asyncio.run(virtual_run(config, tmp_path / str(clients), population(config)))
        gc.collect()
        kept[clients] = tracemalloc.get_traced_memory()[0]
        tracemalloc.stop()
        assert len(virtual.pool.replicas) == 2
        assert coordinator.state.completed_rounds == 2
        for agent in virtual.agents:
            assert agent._prepared.store.pending is None
    assert len(built[8]) == len(built[136])
    # What is left per client are its rows (60 of 5 numbers), its place in the core, and its orders in the journal.
    assert (kept[136] - kept[8]) / 128 < 24_000


def test_public_rows_leave_no_files_behind(tmp_path):
    config = array_config("simulation.clients=4")
    simulated(config, tmp_path / "hard", population(config))
    assert not (tmp_path / "hard").exists()
    private = array_config("simulation.clients=4", "sharing.plan=private_heads")
    simulated(private, tmp_path / "private", population(private))
    assert {path.name for path in (tmp_path / "private").rglob("*") if path.is_file()} == {
        "private.safetensors",
        "model.safetensors",  # what it takes to ask the client later, without rows or published values
        "received.safetensors",
    }


# ---- the run folder ----


class Killed(Exception):
    """The process is gone."""


@pytest.mark.parametrize("plan", ["hard", "private_heads"])
def test_a_killed_simulation_goes_on_to_the_same_model(tmp_path, plan, monkeypatch):
    def config(name: str) -> Config:
        return array_config(
            "simulation={clients: 6, dropouts: 0.2, stragglers: 0.2}",
            "training.num_rounds=4",
            "federation.quorum=0.1",
            f"sharing.plan={plan}",
            f"run.run_dir='{tmp_path / name}'",
        )

    with model_made_here():
        whole = to_json(asyncio.run(simulate(config("whole"), False, None)))
        real_work, worked = Participation._work, []

        async def work(self, *order):
            worked.append(order)
            if len(worked) == 9:
                raise Killed
            await real_work(self, *order)

        monkeypatch.setattr(Participation, "_work", work)
        with pytest.raises(Killed):
            asyncio.run(simulate(config("killed"), False, None))
        monkeypatch.setattr(Participation, "_work", real_work)
        shutil.copytree(tmp_path / "killed", tmp_path / "resumed")
        resumed = to_json(asyncio.run(simulate(config("resumed"), True, None)))
    assert resumed["model_digest"] == whole["model_digest"]
    assert resumed["status"] == "finished"
    assert resumed["tasks"] == whole["tasks"]
    written = json.loads((tmp_path / "resumed" / "report.json").read_text())
    assert written["model_digest"] == whole["model_digest"]
    assert written["seconds"] > 0
    assert len((tmp_path / "whole" / "metrics.jsonl").read_text().splitlines()) == 5


# ---- refusals ----


@pytest.mark.parametrize(
    ("override", "line"),
    [
        ("simulation.clients=1", "simulation.clients: 1 cannot hold 2 tasks"),
        ("simulation.tasks_per_client=3", "simulation.tasks_per_client: 3, but there are 2 tasks"),
        ("data.partition=1/2", "data.partition: a simulation deals out the rows by itself"),
        ("client.precision=auto", "client.precision: auto is timed by each client"),
        ("simulation.dropouts=1", "simulation.dropouts"),
        ("simulation.partition={name: dirichlet, alpha: 0}", "simulation.partition.alpha"),
        ("simulation.partition.alpha=1", "simulation.partition.alpha: not read by iid"),
        ("simulation.workers=0", "simulation.workers"),
        ("simulation={partition: dirichlet}", "dirichlet needs one label per row, task tags has many"),
    ],
)
def test_a_configuration_that_cannot_be_simulated_is_refused(override, line):
    keys = ("model.server_model=mlp", "model.mlp.features=2")
    tasks = "tasks={a: {type: regression}, tags: {type: multilabel, labels: 3}}"
    load_config(None, [*keys, tasks], "simulate")
    with pytest.raises(ConfigError) as refused:
        load_config(None, [*keys, tasks, override], "simulate")
    assert any(line in problem for problem in refused.value.problems), refused.value.problems


def test_personal_models_of_virtual_clients_score_and_stay_on_disk(tmp_path):
    """Ditto without private scopes: the folder is made for the personal model, which is scored after the last round."""
    procedures = {
        "ditto": "training={num_rounds: 2, procedure: ditto}",
        "own": "training={num_rounds: 2, finetune_epochs: 1}",
    }
    for name, override in procedures.items():
        config = array_config(override, "federation.min_clients=4")
        virtual = simulated(config, tmp_path / name, MIXED)
        real = asyncio.run(over_grpc(config, tmp_path / f"{name}-real", MIXED))
        found, expected = (personalisation(c.settings.tasks, c.journal.rounds()) for c in (virtual, real))
        assert found == expected
        assert {scores.round for tasks in found.values() for scores in tasks.values()} == {2}
