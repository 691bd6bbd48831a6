"""Groups and members at the edges: saved models, what a client is told, moments, capacity, names."""

from __future__ import annotations

import asyncio
from collections.abc import Mapping
from pathlib import Path

import numpy as np
import pytest
import torch
from numpy.typing import NDArray

from client.disclosure import what_leaves
from client.jobs.local_client import LocalClient
from common.bodies import DENSE_FLOAT32
from common.config import Config
from common.errors import ConfigError
from common.methods.agreement import AgreementRelation
from common.methods.linear import MeanRelation
from common.methods.server_optimizers import FedAvgM
from common.parameters.encodings import ENCODINGS, EncodedDelta
from common.parameters.schema import ParameterSchema
from common.parameters.scope import ByTemplate
from server.aggregation.aggregator import Aggregator
from server.aggregation.strategy import AggregationStrategy
from server.core.effects import Combine
from server.runs.saved import SavedRun, load_run
from simulation.population import VirtualClient
from simulation.virtual_clients import run_virtual_clients
from tests import federations
from tests.crashes import Cast, crash_and_recover, prepare_run
from tests.federations import array_config, digest_of, federate, make_model, small_config
from tests.test_group_scopes import GROUPED, MEMBERS, ROWS, configured

Vector = NDArray[np.float32]
SLOT = "member/{member}"


# ---- saved models: --mode evaluate and export ----


def saved(config: Config, values: Mapping[str, float]) -> SavedRun:
    """A run whose scopes hold one number each; a scope of a slot has that slot's size."""
    model = make_model(config)
    sizes = ByTemplate({scope: schema.size for scope, schema in model.schemas.items()})
    vectors = ByTemplate({scope: np.zeros(size, np.float32) for scope, size in sizes.items()})
    vectors.update({scope: np.full(sizes[scope], value, np.float32) for scope, value in values.items()})
    return SavedRun(config, model, 1, vectors)


def loaded(run: SavedRun, task: str) -> dict[str, float]:
    run.load_task(task)
    return {scope: float(vector[0]) for scope, vector in run.model.vectors.items()}


def test_the_model_of_a_task_is_that_of_its_groups() -> None:
    config = array_config(*ROWS["hierarchy"])
    run = saved(config, {"group/nlu": 1.0, "group/nlu/one": 2.0, "group/nlu/two": 3.0, "task/a0": 4.0})
    assert loaded(run, "a0") == {"group/{1}": 1.0, "group/{2}": 2.0, "task/a0": 4.0, "task/b1": 0.0}
    assert loaded(run, "b1")["group/{2}"] == 3.0


def test_the_model_of_a_task_is_that_of_the_member_that_holds_it() -> None:
    head_a, head_b = f"{SLOT}/task/a0", f"{SLOT}/task/b1"
    values = {"member/a0": 1.0, "member/a0/task/a0": 5.0, "member/a0+b1": 2.0, "member/a0+b1/task/b1": 6.0}
    by_tasks = saved(array_config("sharing.plan=soft"), values)
    assert loaded(by_tasks, "a0")[SLOT] == 1.0 and loaded(by_tasks, "a0")[head_a] == 5.0
    assert loaded(by_tasks, "b1")[SLOT] == 2.0 and loaded(by_tasks, "b1")[head_b] == 6.0


@pytest.mark.parametrize("relation", ["mean", "none"])
def test_of_clients_copies_a_task_has_the_mean_with_or_without_a_relation(relation: str) -> None:
    config = array_config("sharing.plan=soft", "sharing.members=clients", f"relation.name={relation}")
    values = {"member/a": 1.0, "member/b": 4.0, "member/a/task/a0": 2.0, "anchor/member/a": 9.0}
    run = saved(config, values)
    assert loaded(run, "a0") == {SLOT: 2.5, f"{SLOT}/task/a0": 2.0, f"{SLOT}/task/b1": 0.0}
    assert loaded(saved(config, {}), "a0")[SLOT] == 0.0, "before the first round"


@pytest.mark.parametrize("name", ["hierarchy", "soft by tasks", "adaptive", "graph_l1"])
def test_a_run_on_disk_is_read_back_with_all_its_groups(name: str, tmp_path: Path) -> None:
    config = configured(name, "training.num_rounds=2")
    clients = GROUPED if name == "hierarchy" else MEMBERS
    template = prepare_run(config, tmp_path / "template")
    asyncio.run(crash_and_recover(config, template, tmp_path, Cast(config, clients), None, False))
    run = load_run(tmp_path / "run")
    assert run.version == 2
    found = {}
    for task in ("a0", "b1"):
        run.load_task(task)
        found[task] = {n: value.detach().clone() for n, value in run.model.model.named_parameters()}
        assert all(torch.isfinite(value).all() for value in found[task].values())
    same = name in ("adaptive", "graph_l1")  # of clients' copies both tasks get the mean
    weights = [found[task]["encoder.layers.0.weight"] for task in ("a0", "b1")]
    assert torch.equal(*weights) is (same or name == "hierarchy")
    if name == "hierarchy":
        assert not torch.equal(*(found[task]["encoder.layers.1.weight"] for task in ("a0", "b1")))


# ---- what a client is told ----


def test_check_names_the_scopes_that_a_client_would_have() -> None:
    groups = "\n".join(what_leaves(configured("hierarchy"), ["a0"]))
    assert "scope group/nlu: the change of 48 parameters" in groups and "scope group/nlu/one: " in groups
    assert "{" not in groups and "a member's scope" not in groups
    tasks = "\n".join(what_leaves(configured("soft by tasks"), ["b1", "a0"]))
    assert "scope member/a0+b1: the change of" in tasks and "scope member/a0+b1/task/a0: " in tasks
    assert "a copy of the clients with exactly these tasks, perhaps one, alone: the coordinator sees it" in tasks
    clients = "\n".join(what_leaves(configured("adaptive"), ["a0"]))
    assert "scope member/<client id>/layer_0: " in clients and "a copy of this client alone" in clients
    hard = "\n".join(what_leaves(array_config(), ["a0"]))
    assert "a member's scope" not in hard
    with pytest.raises(ConfigError, match=r"--tasks: its tasks lie in different groups .* one client per group"):
        what_leaves(configured("groups"), ["a0", "b1"])


def test_a_member_that_trains_its_head_alone_shares_no_copy() -> None:
    config = configured("soft by tasks")
    head = config.model_copy(update={"client": config.client.model_copy(update={"trains": "head"})})
    lines = "\n".join(what_leaves(head, ["a0"]))
    assert "scope member/a0/task/a0: " in lines and "scope member/a0: " not in lines


# ---- capacity ----


def test_a_client_that_trains_its_head_alone_is_in_no_groups_mean(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """a and b hold a0; b trains its head alone, so the group's new values are those that a alone would make."""
    config = configured("groups", "training.num_rounds=1")
    make = federations.make_client

    def weak(config: Config, client: str, tasks: tuple[str, ...], partition: str) -> LocalClient:
        own = config.client.model_copy(update={"trains": "head" if client == "b" else "all"})
        return make(config.model_copy(update={"client": own}), client, tasks, partition)

    monkeypatch.setattr(federations, "make_client", weak)
    mixed = asyncio.run(federate(config, tmp_path / "mixed", GROUPED))
    two = config.model_copy(update={"federation": config.federation.model_copy(update={"min_clients": 2})})
    alone = asyncio.run(federate(two, tmp_path / "alone", (GROUPED[0], GROUPED[2])))
    for scope in ("group/one", "group/two"):
        assert np.array_equal(mixed.vectors[scope], alone.vectors[scope])
    assert not np.array_equal(mixed.vectors["task/a0"], alone.vectors["task/a0"])
    (order,) = [o for o in mixed.journal.rounds()[0].orders.values() if o.client_id == "b"]
    assert order.untrained == {"group/one"} and set(order.weights) == {"task/a0"}


# ---- moments of members ----


def folded(aggregator: Aggregator, **deltas: float) -> dict[str, int]:
    """One update of each named member, 4 parameters of one value; the totals."""
    dense, schema = ENCODINGS[DENSE_FLOAT32], ParameterSchema.of({"values": (4,)})
    for name, value in deltas.items():
        delta = dense.encode(np.full(4, value, np.float32), schema)
        aggregator.fold(name, [(f"member/{name}", EncodedDelta(dense, schema, delta))], {f"member/{name}": 1}, {})
    return {f"member/{name}": 1 for name in deltas}


def test_a_newcomers_moments_begin_where_all_began_and_survive_a_restart() -> None:
    """Momentum 0.5: a moves 1, then 0.5 * 1 + 1 = 1.5; b, new in round 2, starts from the mean, 1, and moves 2."""
    method = AggregationStrategy(optimizer=FedAvgM(0.5), relation=MeanRelation(0.1))
    aggregator = Aggregator(method)
    vectors: ByTemplate[Vector] = ByTemplate({SLOT: np.zeros(4, np.float32)})
    vectors.update(aggregator.combine(vectors, Combine(1, folded(aggregator, a=1.0))))
    assert {scope: float(v[0]) for scope, v in vectors.items()} == {SLOT: 1.0, "member/a": 1.0, "anchor/member/a": 1.0}
    again = Aggregator(method, {name: moment.copy() for name, moment in aggregator.moments.items()})
    for one in (aggregator, again):
        found = one.combine(vectors, Combine(2, folded(one, a=1.0, b=2.0)))
        assert float(found["member/a"][0]) == 2.5 and float(found["member/b"][0]) == 3.0
        assert float(found["anchor/member/b"][0]) == float(found[SLOT][0]) == 2.75


# ---- texts ----


def test_a_pull_moves_rows_of_words_that_others_have_and_rows_stay_right(tmp_path: Path) -> None:
    """In round 2 a is pulled in the words of all members, so more rows travel, with the bits of the dense encoding.

    A word that nobody has is where its anchor is, and stays. All 30,522 rows of 16 numbers would be 1,953,408 bytes.
    """
    digests, sizes = [], {}
    for encoding in ("dense-float32", "rows-float32"):
        config = small_config(tmp_path, "sharing.plan=soft", f"federation.update_encoding={encoding}", dropout=0.0)
        coordinator = asyncio.run(federate(config, tmp_path / encoding))
        digests.append(digest_of(coordinator))
        sizes = {name: o.nbytes for r in coordinator.journal.rounds() for name, o in r.orders.items()}
    assert digests[0] == digests[1]
    assert sizes["train-1.1-a"] < sizes["train-2.1-a"] < 0.1 * 1_953_408


# ---- simulations ----


@pytest.mark.parametrize("name", ["graph", "adaptive", "hierarchy"])
def test_clients_that_take_turns_at_a_bench_keep_their_own_copies_and_anchors(name: str, tmp_path: Path) -> None:
    config = configured(name)
    clients = GROUPED if name == "hierarchy" else MEMBERS
    apart = asyncio.run(federate(config, tmp_path / "apart", clients))
    crowd = [
        VirtualClient(client, {task: tuple(int(n) for n in part.split("/")) for task in tasks})  # type: ignore[misc]
        for client, tasks, part in clients
    ]
    coordinator, _ = asyncio.run(run_virtual_clients(config, make_model(config), crowd, tmp_path / "crowd"))
    assert digest_of(coordinator) == digest_of(apart)


# ---- configuration ----


def test_a_plan_with_copies_names_its_relation_whatever_else_is_said_of_it() -> None:
    assert array_config("sharing.plan=soft", "relation.strength=0.5").relation == MeanRelation(0.5)
    assert array_config("sharing.plan=adaptive", "relation.patience=3").relation == AgreementRelation(patience=3)
    assert array_config("sharing.plan=soft", "relation.name=none").relation is None
    assert array_config().relation is None


@pytest.mark.parametrize(
    ("overrides", "line"),
    [
        (["relation.name=graph", "relation.links=[[a0, c7, 1.0]]"], "relation.links.0: 'c7' is no set of tasks"),
        (["relation.name=graph", "relation.links=[[a0, b1+a0, 1.0]]"], "relation.links.0: 'b1+a0' is no set of tasks"),
        (["relation.name=clusters", "relation.clusters={x: [a0, z]}"], "relation.clusters.x: 'z' is no set of tasks"),
    ],
)
def test_a_member_that_no_tasks_make_is_refused(overrides: list[str], line: str) -> None:
    with pytest.raises(ConfigError) as caught:
        array_config("sharing.plan=soft", *overrides)
    (problem,) = caught.value.problems
    assert problem.startswith(line) and "\n" not in problem
    array_config("sharing.plan=soft", "relation.name=graph", "relation.links=[[a0, a0+b1, 1.0]]")
    array_config("sharing.plan=soft", "sharing.members=clients", *overrides)
