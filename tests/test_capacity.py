"""Clients that train a part of the model: what they leave out, and over whom the rest is averaged."""

from __future__ import annotations

import asyncio
import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

from client.agent import Agent
from client.disclosure import what_leaves
from client.transport.grpc_port import GrpcCoordinator
from common.capabilities import Capabilities, Capacity
from common.clock import ManualClock
from common.config import Config
from common.errors import ConfigError, ModelError, Refused
from common.methods.procedures import Ditto, FedProx
from common.models.encoder import build_encoder, shallower
from common.orders import JoinRequest
from common.parameters.capacity import capacity_problem, trained_blocks, untrained_scopes
from common.parameters.plan import block_of
from server.core.effects import Fold
from server.core.events import Joined
from server.core.phases import Phase
from server.engine.coordinator import Coordinator
from server.runs.assembly import in_memory
from server.service.grpc_server import start_server
from server.storage.journal import Journal
from simulation.inprocess import run_together
from simulation.virtual_clients import VirtualClients
from tests.core_cases import TASKS, Table, rules
from tests.federations import CLIENTS, digest_of, federate, make_client, make_model
from tests.test_plans import deep_config
from tests.training_cases import CONFIGS

BLOCKS = {
    **{f"shared/{name}": frozenset({name}) for name in ("embeddings", "layer_0", "layer_1", "layer_2", "top")},
    "task/sst2": frozenset({"heads"}),
}


pytestmark = pytest.mark.usefixtures("one_tokenizer")


@pytest.fixture(scope="module")
def layered(tmp_path_factory: pytest.TempPathFactory) -> Config:
    """Three layers, each a scope of its own; one round."""
    return deep_config(tmp_path_factory.mktemp("deep"), "sharing.by_layer=true", "training.num_rounds=1")


def variant(config: Config, section: str, **changes: object) -> Config:
    return config.model_copy(update={section: getattr(config, section).model_copy(update=changes)})


def test_blocks_of_the_usual_encoders() -> None:
    names = {
        "encoder.embeddings.word_embeddings.weight": "embeddings",
        "encoder.embeddings_project.weight": "embeddings",
        "encoder.encoder.layer.11.attention.self.query.weight": "layer_11",
        "encoder.transformer.layer.0.ffn.lin1.bias": "layer_0",
        "encoder.layers.3.mlp_norm.weight": "layer_3",
        "encoder.encoder.albert_layer_groups.0.albert_layers.0.ffn.weight": "top",
        "encoder.pooler.dense.weight": "top",
        "heads.sst2.out.weight": "heads",
    }
    assert {name: block_of(name) for name in names} == names


@pytest.mark.parametrize(
    ("trains", "fixed"),
    [
        ("all", set()),
        ("head", {"embeddings", "layer_0", "layer_1", "layer_2", "top"}),
        ("top_1", {"embeddings", "layer_0", "layer_1"}),
        ("top_3", {"embeddings"}),
    ],
)
def test_what_a_client_leaves_out(trains: str, fixed: set[str]) -> None:
    assert capacity_problem(Capacity(trains), BLOCKS) is None
    assert untrained_scopes(Capacity(trains), BLOCKS) == {f"shared/{name}" for name in fixed}
    assert "heads" in trained_blocks(Capacity(trains), BLOCKS)


def test_the_order_of_layers_is_that_of_their_numbers() -> None:
    blocks = {f"shared/layer_{i}": frozenset({f"layer_{i}"}) for i in range(12)}
    assert {f"shared/layer_{i}" for i in range(12)} - untrained_scopes(Capacity("top_2"), blocks) == {
        "shared/layer_10",
        "shared/layer_11",
    }


@pytest.mark.parametrize(
    ("trains", "problem"),
    [("top_4", "the encoder has 3 layers"), ("top_0", "is not all, head or top_<n>"), ("most", "is not all, head")],
)
def test_what_makes_no_sense_is_told(trains: str, problem: str) -> None:
    assert problem in (capacity_problem(Capacity(trains), BLOCKS) or "")


def test_a_part_of_a_scope_cannot_be_trained(tmp_path: Path) -> None:
    config = deep_config(tmp_path, "client.trains=top_1")
    with pytest.raises(ConfigError, match=r"'shared', and scopes are trained whole.*sharing.by_layer: true"):
        what_leaves(config, ["sst2"])
    with pytest.raises(ExceptionGroup) as caught:
        asyncio.run(federate(config, tmp_path / "state"))
    assert "client 'a': client.trains: top_1 is a part of scope 'shared'" in str(caught.value.exceptions[0])
    with pytest.raises(ConfigError, match=r"client.trains: 'top' is not all, head or top_<n>"):
        deep_config(tmp_path / "other", "client.trains=top")


def test_what_leaves_is_said_without_what_is_fixed(layered: Config) -> None:
    lines = "\n".join(what_leaves(variant(layered, "client", trains="top_1"), ["sst2"]))
    assert "scope shared/layer_2:" in lines and "scope task/sst2:" in lines
    assert "scope shared/layer_1:" not in lines and "scope shared/embeddings:" not in lines


# ---- the core ----


def test_the_core_counts_those_who_train_a_scope() -> None:
    blocks = {"shared": frozenset({"layer_0"}), "task/sst2": frozenset({"heads"}), "task/qqp": frozenset({"heads"})}
    table = Table(rules(clients_per_task=1, min_clients=3, quorum=1.0, blocks=blocks))
    for name, trains in (("a", "all"), ("b", "head"), ("c", "head")):
        tasks = tuple(task for task in TASKS if task.name in (("sst2", "qqp") if name == "a" else ("sst2",)))
        sizes = tuple((task.name, 100) for task in tasks)
        request = JoinRequest(name, tasks, sizes, Capabilities(capacity=Capacity(trains)), validation=sizes)
        table.apply(Joined(0.0, request, f"token-{name}"))
    assert table.state.open is not None
    assert {o.client_id: o.untrained for o in table.state.open.orders.values()} == {
        "a": frozenset(),
        "b": {"shared"},
        "c": {"shared"},
    }
    whole = table.header("b")
    with pytest.raises(Refused, match="is about scopes"):
        table.answer("b")
    table.header = lambda client, examples=100, digest="d" * 32: replace(  # type: ignore[method-assign]
        whole,
        order_id=f"train-1.1-{client}",
        scopes=tuple(s for s in whole.scopes if s.scope != "shared"),
    )
    table.answer("b")
    table.answer("c")
    folds = [effect.weights for effect in table.of(Fold) if isinstance(effect, Fold)]
    assert folds == [{"task/sst2": 100}] * 2
    left = next(o for o in table.state.open.orders.values() if o.client_id == "a")
    assert [scope.scope for scope in left.trained] == ["shared", "task/qqp", "task/sst2"]


def test_a_client_that_comes_back_with_another_capacity_gets_no_old_order() -> None:
    blocks = {"shared": frozenset({"layer_0"}), "task/sst2": frozenset({"heads"}), "task/qqp": frozenset({"heads"})}
    table = Table(rules(min_clients=2, blocks=blocks))
    table.join("a", "sst2", "qqp")
    table.join("b", "sst2")
    assert table.order("b") is not None
    table.apply(
        Joined(0.0, JoinRequest("b", TASKS[:1], (("sst2", 100),), Capabilities(capacity=Capacity("head"))), "token-b")
    )
    assert table.order("b") is None and table.order("a") is not None


def test_the_journal_remembers_what_is_fixed(tmp_path: Path, layered: Config) -> None:
    coordinator = run_mixed(layered, tmp_path / "state", {"b": "head"}, journal=Journal(tmp_path / "journal.sqlite"))
    orders = coordinator.journal.rounds()[0].orders
    assert orders["train-1.1-b"].untrained == {f"shared/{name}" for name in ("embeddings", *LAYERS, "top")}
    assert orders["train-1.1-a"].untrained == frozenset()


# ---- whole federations ----

LAYERS = ("layer_0", "layer_1", "layer_2")


def run_mixed(
    config: Config,
    state: Path,
    trains: dict[str, str],
    how: str = "direct",
    clients: Any = CLIENTS,
    journal: Journal | None = None,
) -> Coordinator:
    """A federation whose clients train different parts."""

    async def run() -> Coordinator:
        coordinator = in_memory(config, make_model(config), ManualClock(), journal=journal)
        server = await start_server(coordinator, "127.0.0.1", 0, None) if how == "grpc" else None
        agents, ports = [], []
        for name, tasks, partition in clients:
            port: Any = coordinator
            if server is not None:
                port = GrpcCoordinator("127.0.0.1", server.port_number, None, name)
                ports.append(port)
            own = variant(config, "client", trains=trains.get(name, "all"))
            agents.append(Agent(port, make_client(own, name, tasks, partition), state / name))
        await run_together(coordinator, agents)
        for port in ports:
            await port.close()
        if server is not None:
            await server.stop(0)
        return coordinator

    return asyncio.run(run())


def by_name(coordinator: Coordinator) -> dict[str, NDArray[np.float32]]:
    """Published values by parameter name."""
    return {
        entry.name: coordinator.vectors[scope][entry.offset : entry.offset + entry.count]
        for scope, schema in coordinator._federation.schemas.items()
        if scope in coordinator.vectors
        for entry in schema.entries
    }


def test_a_scope_per_layer_changes_no_value(tmp_path: Path, layered: Config) -> None:
    one = asyncio.run(federate(variant(layered, "sharing", by_layer=False), tmp_path / "one"))
    many = asyncio.run(federate(layered, tmp_path / "many"))
    assert sorted(many.vectors) == sorted(
        [*(f"shared/{name}" for name in ("embeddings", *LAYERS, "top")), "task/qqp", "task/sst2"]
    )
    np.testing.assert_equal(by_name(many), by_name(one))


def test_a_full_client_beside_smaller_ones_decides_alone_below(tmp_path: Path, layered: Config) -> None:
    mixed = run_mixed(layered, tmp_path / "mixed", {"b": "head", "c": "top_1", "d": "head"})
    others = {"x": "head"}  # somebody must hold the other task
    alone = run_mixed(variant(layered, "federation", min_clients=2), tmp_path / "alone", others, clients=LONE)
    full = asyncio.run(federate(layered, tmp_path / "full"))
    for scope in ("shared/embeddings", "shared/layer_0", "shared/layer_1"):
        np.testing.assert_array_equal(mixed.vectors[scope], alone.vectors[scope])
        assert not np.array_equal(mixed.vectors[scope], full.vectors[scope])
    for scope in ("shared/layer_2", "shared/top", "task/sst2"):
        assert not np.array_equal(mixed.vectors[scope], alone.vectors[scope]), "more than one client trained it"
    assert mixed.state.phase is Phase.FINISHED and mixed.bytes_up < full.bytes_up / 2


LONE = (CLIENTS[0], ("x", ("qqp",), "1/2"))


def test_what_nobody_trains_keeps_values_and_version(tmp_path: Path, layered: Config) -> None:
    coordinator = run_mixed(layered, tmp_path, dict.fromkeys("abcd", "head"))
    start = make_model(layered).vectors
    for scope, version in coordinator.state.versions.items():
        assert version == (1 if scope.startswith("task/") else 0)
        assert np.array_equal(coordinator.vectors[scope], start[scope]) == scope.startswith("shared/")


def test_mixed_clients_come_to_one_model_over_every_transport(tmp_path: Path, layered: Config) -> None:
    config = variant(layered, "training", num_rounds=2, procedure=FedProx(mu=1.0))
    trains = {"b": "head", "c": "top_1", "d": "top_2"}
    found = {digest_of(run_mixed(config, tmp_path / how, trains, how)) for how in ("direct", "grpc")}
    assert len(found) == 1


# ---- shallower encoders ----


def run_shallow(config: Config, state: Path, layers: dict[str, int], how: str = "direct") -> Coordinator:
    """A federation in which some clients have the first few layers alone."""
    with pytest.MonkeyPatch.context() as patched:
        made = make_client

        def shallow(own: Config, name: str, tasks: Any, partition: str) -> Any:
            return made(variant(own, "client", layers=layers.get(name)), name, tasks, partition)

        patched.setattr("tests.test_capacity.make_client", shallow)
        return run_mixed(config, state, {}, how)


def test_a_layer_is_averaged_over_those_who_have_it(tmp_path: Path, layered: Config) -> None:
    shallow = run_shallow(layered, tmp_path / "shallow", {"b": 1, "c": 2, "d": 1})
    orders = shallow.journal.rounds()[0].orders
    held = {order.client_id: {scope.scope for scope in order.scopes} for order in orders.values()}
    assert "shared/layer_2" in held["a"] and "shared/layer_1" not in held["b"]
    assert {"shared/embeddings", "shared/layer_0", "shared/layer_1", "shared/top"} < held["c"]
    alone = run_mixed(variant(layered, "federation", min_clients=2), tmp_path / "alone", {"x": "head"}, clients=LONE)
    np.testing.assert_array_equal(shallow.vectors["shared/layer_2"], alone.vectors["shared/layer_2"])
    assert not np.array_equal(shallow.vectors["shared/layer_0"], alone.vectors["shared/layer_0"])


def test_shallow_clients_come_to_one_model_over_every_transport(tmp_path: Path, layered: Config) -> None:
    config = variant(layered, "training", num_rounds=2, procedure=Ditto())
    found = [run_shallow(config, tmp_path / how, {"b": 1, "d": 2}, how) for how in ("direct", "grpc")]
    assert len({digest_of(coordinator) for coordinator in found}) == 1
    assert all(coordinator.state.phase is Phase.FINISHED for coordinator in found)


@pytest.mark.parametrize(
    ("changes", "layers", "problem"),
    [
        ({"by_layer": False}, 2, "client.layers: 2 would cut scope 'shared' in two"),
        ({}, 4, "client.layers: 4, but the encoder has 3 layers"),
        ({"plan": "fedper"}, 2, "would cut scope 'private' in two|scope 'private'"),
    ],
)
def test_a_depth_that_does_not_fit_is_refused(
    tmp_path: Path, layered: Config, changes: dict[str, Any], layers: int, problem: str
) -> None:
    config = variant(layered, "sharing", **changes)
    with pytest.raises(ConfigError, match=problem):
        what_leaves(variant(config, "client", layers=layers), ["sst2"])
    with pytest.raises(ExceptionGroup) as caught:
        run_shallow(config, tmp_path, dict.fromkeys("abcd", layers))
    assert "client.layers" in str(caught.value.exceptions[0])


def test_a_simulation_has_one_depth(tmp_path: Path, layered: Config) -> None:
    config, clock = variant(layered, "client", layers=2), ManualClock()
    with pytest.raises(ConfigError, match=r"client.layers: simulated clients"):
        VirtualClients(config, in_memory(layered, make_model(layered), clock), clock, {}, [], tmp_path)


def test_part_of_a_shallow_encoder_is_too_little(layered: Config) -> None:
    with pytest.raises(ConfigError, match=r"client.layers: 2 and client.trains: top_1 exclude each other"):
        what_leaves(variant(layered, "client", layers=2, trains="top_1"), ["sst2"])


@pytest.mark.parametrize(("kind", "layers"), [("bert", "encoder.layer"), ("distilbert", "transformer.layer")])
def test_the_first_layers_of_an_encoder(kind: str, layers: str) -> None:
    config = json.dumps(CONFIGS[kind] | {"num_hidden_layers": 3, "n_layers": 3})
    names = [name for name, _ in build_encoder(shallower(config, 2)).named_parameters()]
    assert any(name.startswith(f"{layers}.1.") for name in names)
    assert not any(name.startswith(f"{layers}.2.") for name in names)
    with pytest.raises(ModelError, match="cannot have 4 layers"):
        shallower(config, 4)
