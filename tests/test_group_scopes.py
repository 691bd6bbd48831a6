"""Groups, members and relations as whole federations: transports, deaths, hand-made numbers."""

from __future__ import annotations

import asyncio
import json
from collections import Counter
from collections.abc import AsyncIterator, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from client.agent import Agent
from client.training.work import ClientState, Procedure, Trained, Work
from client.transport.grpc_port import GrpcCoordinator
from common.bodies import Evaluate, Train
from common.clock import ManualClock
from common.config import Config
from common.errors import Reason, Refused
from common.methods.choice import described
from common.parameters.scope import Scope
from common.ports import INLINE_BYTES
from server.core.facts import RunConfiguration, RunFacts
from server.core.state import Related
from server.engine.coordinator import Coordinator
from server.reporting.report import build_report
from server.reporting.values import to_json
from server.runs.assembly import in_memory
from server.service.grpc_server import start_server
from server.storage.journal import Journal
from simulation.inprocess import run_together
from tests.crashes import Cast, crash_and_recover, prepare_run
from tests.federations import Clients, array_config, digest_of, federate, make_client, make_model

MEMBERS: Clients = (("a", ("a0",), "1/3"), ("b", ("a0",), "2/3"), ("c", ("b1",), "1/3"), ("d", ("a0", "b1"), "3/3"))
GROUPED: Clients = MEMBERS[:3]
EACH = ("sharing.plan=soft", "sharing.members=clients")
TREE = (
    "sharing.plan=rules",
    "sharing.rules=[{'heads.{task}.*': 'task/{task}'}, {'encoder.layers.0.*': 'group/{1}'},"
    " {'encoder.layers.1.*': 'group/{2}'}]",
    "model.mlp.hidden=[8, 6]",
)
LINKS = "relation.links=[[a, b, 1.0], [b, c, 0.5]]"
ROWS: Mapping[str, tuple[str, ...]] = {
    "groups": ("sharing.plan=groups", "sharing.groups={one: [a0], two: [b1]}"),
    "hierarchy": (*TREE, "sharing.groups={nlu: {one: [a0], two: [b1]}}"),
    "soft by tasks": ("sharing.plan=soft",),
    "soft without relation": (*EACH, "relation.name=none"),
    "mean": EACH,
    "mean proximal": (*EACH, "relation.strength=30.0", "training.proximal_step=proximal"),
    "graph": (*EACH, "relation.name=graph", LINKS),
    "graph_l1": (*EACH, "relation.name=graph_l1", LINKS),
    "precision": (*EACH, "relation.name=precision", "relation.links=[[a, b, -0.9], [b, c, 0.4]]"),
    "clusters": (*EACH, "relation.name=clusters", "relation.clusters={one: [a, b], two: [c, d]}"),
    "attention": (*EACH, "relation.name=attention"),
    "similarity": (*EACH, "relation.name=similarity", "relation.share=0.5"),
    "partial": (*EACH, "relation.name=partial", "relation.share=0.1"),
    "adaptive": ("sharing.plan=adaptive", "sharing.members=clients", "relation.patience=1"),
    "mocha": (*EACH, "relation.name=mocha", "relation.floor=0.05"),
    "start": ("training.anchor=start",),
}


@pytest.fixture(scope="module")
def digests() -> dict[str, str]:
    return {}


def clients_of(name: str) -> Clients:
    return GROUPED if name in ("groups", "hierarchy") else MEMBERS


def configured(name: str, *more: str) -> Config:
    clients = len(clients_of(name))
    return array_config(f"federation.min_clients={clients}", "training.num_rounds=3", *ROWS[name], *more)


@pytest.mark.parametrize("name", ROWS)
def test_a_row_gives_one_model_over_every_transport(name: str, digests: dict[str, str], tmp_path: Path) -> None:
    runs = [("direct", None), ("grpc", 5)]
    config, clients = configured(name), clients_of(name)
    found = {digest_of(asyncio.run(federate(config, tmp_path / how, clients, how, order))) for how, order in runs}
    assert len(found) == 1
    digests[name] = found.pop()
    assert len(set(digests.values())) == len(digests), "two rows came to the same model"


@pytest.mark.parametrize("name", ["mean", "graph_l1", "adaptive", "start"])
def test_encodings_of_updates_know_members(name: str, tmp_path: Path) -> None:
    """An mlp has no rows of words, so rows save nothing and are the same bits; bfloat16 has 8 significant bits."""
    plain = asyncio.run(federate(configured(name), tmp_path / "plain", MEMBERS))
    config = configured(name)
    for encoding in ("rows-float32", "dense-bfloat16", "rows-bfloat16"):
        federation = config.federation.model_copy(update={"update_encoding": encoding})
        changed = config.model_copy(update={"federation": federation})
        found = asyncio.run(federate(changed, tmp_path / encoding, MEMBERS))
        assert (digest_of(found) == digest_of(plain)) is (encoding == "rows-float32")
        for scope, values in plain.vectors.items():
            np.testing.assert_allclose(found.vectors[scope], values, atol=5e-3)


# ---- deaths ----


def told(place: Path) -> list[Related]:
    """What the journal of a run says of its relation."""
    journal = Journal(place / "run" / "journal.sqlite")
    try:
        return journal.relations()
    finally:
        journal.close()


RECOVERED = {
    "graph_l1": ("aggregation.optimizer=adam", "federation.server_learning_rate=1e-2"),
    "adaptive": (),
    "mocha": ("relation.every=2",),
    "start": (),
}
TWO: Clients = (("a", ("a0",), "1/2"), ("b", ("b1",), "2/2"))
STEPS = [
    pytest.param(range(9, 17), id="of the second round"),
    pytest.param(range(1, 26), id="of all rounds", marks=pytest.mark.slow),
]


@pytest.mark.parametrize("steps", STEPS)
@pytest.mark.parametrize("name", RECOVERED)
def test_a_coordinator_that_dies_after_any_effect_comes_to_the_same_members(
    name: str, steps: Sequence[int], tmp_path: Path
) -> None:
    """Duals, groups, moments of members and the run's first values are all as durable as the model."""
    config = configured(name, "federation.min_clients=2", *RECOVERED[name])
    template, cast = prepare_run(config, tmp_path / "template"), Cast(config, TWO)
    expected, effects = asyncio.run(crash_and_recover(config, template, tmp_path / "whole", cast, None, False))
    assert len(effects) == 2 + 3 * 7 + 2
    for step in steps:
        found, _ = asyncio.run(crash_and_recover(config, template, tmp_path / str(step), cast, step, False))
        assert found == expected, f"died after effect {step}, {effects[step - 1]}"
        assert told(tmp_path / str(step)) == told(tmp_path / "whole")


# ---- what travels ----


class Noting:
    """A port that tells which scopes are fetched, and what orders ask for."""

    def __init__(self, port: Any) -> None:
        self._port = port
        self.fetched: Counter[tuple[str, int]] = Counter()
        self.pulls: dict[str, tuple[str, ...]] = {}

    def __getattr__(self, name: str) -> Any:
        return getattr(self._port, name)

    async def fetch(self, session: Any, scope: Any, offset: int) -> AsyncIterator[Any]:
        self.fetched[scope.scope, scope.version] += 1
        async for chunk in self._port.fetch(session, scope, offset):
            yield chunk

    async def poll(self, *arguments: Any) -> Any:
        reply = await self._port.poll(*arguments)
        if reply.order is not None:
            match reply.order.body:
                case Train(proximal_terms=terms):
                    self.pulls[reply.order.order_id] = tuple(term.scope for term in terms)
                case Evaluate():
                    self.pulls[reply.order.order_id] = ()
        return reply


async def observed(config: Config, state: Path, grpc: bool = False) -> tuple[Coordinator, dict[str, Noting]]:
    coordinator, ports = in_memory(config, make_model(config), ManualClock()), {}
    server = await start_server(coordinator, "127.0.0.1", 0, None) if grpc else None
    agents = []
    for name, tasks, partition in MEMBERS:
        ports[name] = Noting(coordinator)
        if server is not None:
            ports[name] = Noting(GrpcCoordinator("127.0.0.1", server.port_number, None, name))
            await ports[name]._port.__aenter__()
        agents.append(Agent(ports[name], make_client(config, name, tasks, partition), state / name))
    await run_together(coordinator, agents)
    if server is not None:
        for port in ports.values():
            await port._port.__aexit__(None, None, None)
        await server.stop(0)
    return coordinator, ports


def test_small_anchors_ride_in_orders_and_large_ones_are_fetched(tmp_path: Path) -> None:
    _, ports = asyncio.run(observed(configured("graph"), tmp_path / "small"))
    assert not any(port.fetched for port in ports.values())
    wide = configured("graph", "model.mlp.hidden=[4000]")  # 96 kB
    large, ports = asyncio.run(observed(wide, tmp_path / "large", grpc=True))
    assert large.vectors["anchor/member/b"].nbytes > INLINE_BYTES
    for name in "abc":
        rounds = dict.fromkeys((1, 2), 1)
        found = {v: n for (scope, v), n in ports[name].fetched.items() if scope == f"anchor/member/{name}"}
        assert found == rounds, "once for each order to train that has one, and never for one to score"
        pulled = (f"member/{name}", f"member/{name}/task/{'b1' if name == 'c' else 'a0'}")
        if name == "c":
            pulled = pulled[:1]  # the head of b has no neighbour: links are a-b and b-c, and b has no head of b1
        assert ports[name].pulls == {
            f"train-1.1-{name}": (),
            f"train-2.1-{name}": pulled,
            f"train-3.1-{name}": pulled,
            f"evaluate-3.1-{name}": (),
        }
    assert not any(scope.startswith("anchor/") for scope, _ in ports["d"].fetched), "d has no neighbours"
    assert digest_of(large) == digest_of(asyncio.run(federate(wide, tmp_path / "direct", MEMBERS)))


# ---- start: L2-SP ----


def test_the_runs_first_values_are_an_anchor_that_is_fetched_once(tmp_path: Path) -> None:
    config = configured("start", "model.mlp.hidden=[4000]")
    first = make_model(config).vectors["shared"].numpy().copy()
    coordinator, ports = asyncio.run(observed(config, tmp_path))
    for port in ports.values():
        assert {key: n for key, n in port.fetched.items() if key[0] == "anchor/shared"} == {("anchor/shared", 0): 1}
    assert np.array_equal(coordinator.vectors["anchor/shared"], first)
    assert not np.array_equal(coordinator.vectors["shared"], first)


def test_a_start_pull_of_strength_0_is_none_and_a_strong_one_moves_nothing(tmp_path: Path) -> None:
    """Proximal: after a step of at most 0.01 (AdamW's rate), theta keeps 1 / (1 + 0.01 * 1e6) of it: 1e-6."""
    plain = array_config("federation.min_clients=4", "training.num_rounds=3")
    expected = digest_of(asyncio.run(federate(plain, tmp_path / "plain", MEMBERS)))
    none = configured("start", "training.anchor.strength=0.0")
    assert digest_of(asyncio.run(federate(none, tmp_path / "none", MEMBERS))) == expected
    strong = configured("start", "training.anchor.strength=1e6", "training.proximal_step=proximal")
    first = make_model(strong).vectors["shared"].numpy().copy()
    found = asyncio.run(federate(strong, tmp_path / "strong", MEMBERS))
    np.testing.assert_allclose(found.vectors["shared"], first, atol=1e-4)


# ---- groups ----


def moved_by(amount: float) -> Procedure:
    """A local procedure that adds a number to every parameter."""

    def move(work: Work, state: ClientState) -> Trained:
        with torch.no_grad():
            for parameter in work.model.parameters():
                parameter.add_(amount)
        return Trained(dict.fromkeys(work.examples.tasks, 0.0))

    return move


def moves(config: Config, clients: Mapping[str, tuple[str, float]], state: Path) -> tuple[Coordinator, dict[str, Any]]:
    """Clients with a task and the number they add; the published vectors less the first ones, by scope."""
    model = make_model(config)
    first = {scope: vector.numpy().copy() for scope, vector in model.vectors.items()}
    coordinator = in_memory(config, model, ManualClock())
    coordinator.writer.settings = replace(coordinator.settings, clients_per_task=0, min_clients=len(clients))
    agents = []
    for name, (task, amount) in clients.items():
        client = replace(make_client(config, name, [task], "1/1"), procedure=moved_by(amount))
        agents.append(Agent(coordinator, client, state / name))
    asyncio.run(run_together(coordinator, agents))
    return coordinator, {
        scope: vector - first[scope if scope in first else Scope.parse(scope).template]
        for scope, vector in coordinator.vectors.items()
    }


def test_each_block_of_a_hierarchy_is_averaged_over_all_clients_under_its_node(tmp_path: Path) -> None:
    """All weigh the same. Level 1, nlu: p, q, s add 1, 5, 3, mean 3. Level 2, one: p, s, mean 2; two: q alone, 5.

    r with c2 is a group of its own on both levels, 4. Nobody has d3, so its group is the slot's, untouched.
    """
    tree = "sharing.groups={nlu: {one: [a0], two: [b1]}, far: [d3]}"
    config = array_config(*TREE, tree, "training.num_rounds=1", tasks=("a0", "b1", "c2", "d3"))
    clients = {"p": ("a0", 1.0), "q": ("b1", 5.0), "r": ("c2", 4.0), "s": ("a0", 3.0)}
    coordinator, found = moves(config, clients, tmp_path)
    expected = {"group/nlu": 3.0, "group/nlu/one": 2.0, "group/nlu/two": 5.0, "group/c2": 4.0, "group/c2/all": 4.0}
    assert {name for name in found if name.startswith("group/")} == {*expected, "group/{1}", "group/{2}"}
    for scope, amount in expected.items():
        np.testing.assert_allclose(found[scope], amount, atol=1e-6, err_msg=scope)
    for scope in ("group/{1}", "group/{2}", "task/d3"):
        assert not found[scope].any()
    assert np.array_equal(coordinator.vectors["group/far"], coordinator.vectors["group/{1}"])


def test_one_group_of_all_is_hard_sharing_bit_for_bit(tmp_path: Path) -> None:
    hard = asyncio.run(federate(array_config("federation.min_clients=4"), tmp_path / "hard", MEMBERS))
    config = array_config("federation.min_clients=4", "sharing.plan=groups", "sharing.groups={g: [a0, b1]}")
    one = asyncio.run(federate(config, tmp_path / "one", MEMBERS))
    assert np.array_equal(one.vectors["group/g"], hard.vectors["shared"])
    assert all(np.array_equal(one.vectors[f"task/{task}"], hard.vectors[f"task/{task}"]) for task in ("a0", "b1"))


def test_a_client_with_tasks_of_two_groups_is_refused() -> None:
    config = configured("groups")
    coordinator = in_memory(config, make_model(config), ManualClock())
    request = make_client(config, "d", ["a0", "b1"], "1/1").request
    with pytest.raises(
        Refused, match=r"different groups .*a0 in one, b1 in two.*; start one client per group"
    ) as caught:
        asyncio.run(coordinator.join(request))
    assert caught.value.reason is Reason.UNKNOWN_TASK


# ---- adaptive ----


def test_members_that_never_move_apart_are_fedavg(tmp_path: Path) -> None:
    """No cosine is beyond a margin so wide, so all stay one group, which starts from its mean by examples."""
    plain = asyncio.run(federate(array_config("federation.min_clients=4"), tmp_path / "plain", MEMBERS))
    never = array_config(
        "federation.min_clients=4", "sharing.plan=adaptive", "sharing.members=clients", "relation.margin=1e3"
    )
    found = asyncio.run(federate(never, tmp_path / "never", MEMBERS))
    for name in "abcd":
        np.testing.assert_allclose(found.vectors[f"member/{name}/layer_0"], plain.vectors["shared"], atol=1e-6)
    np.testing.assert_allclose(found.vectors["task/a0"], plain.vectors["task/a0"], atol=1e-6)
    groups = [json.loads(record.state)["groups"] for record in found.journal.relations()]
    assert groups == [[["a", "b", "c", "d"]]] * 2


def test_the_report_tells_rounds_groups_and_notes(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level("INFO", "fedmtl.server")
    config = array_config("training.num_rounds=3", *ROWS["adaptive"])
    coordinator, _ = moves(config, {"p": ("a0", 1.0), "q": ("b1", -1.0)}, tmp_path)
    journal = coordinator.journal
    facts = RunFacts(settings=RunConfiguration(sections={"relation": json.dumps(described(config.relation))}))
    report = to_json(
        build_report(facts, 2, coordinator.settings.tasks, journal.rounds(), [], "", "", (), journal.relations())
    )
    assert report["relation"]["name"] == "agreement"
    assert [entry["round"] for entry in report["relations"]] == [1, 2, 3]
    assert {entry["template"] for entry in report["relations"]} == {"member/{member}/layer_0"}
    assert [entry["groups"] for entry in report["relations"]] == [[["p"], ["q"]]] * 3
    note = "split {p} from {q}: mean cosine -1.0000"
    assert [entry["note"] for entry in report["relations"]] == [note, "", ""]
    assert caplog.text.count("relation on") == 1
    assert f"round 1, relation on member/{{member}}/layer_0: {note}" in caplog.text
    assert "member/{member}/layer_0: 2 tensors, 2 members' own" in caplog.text
    json.dumps(report, allow_nan=False)


# ---- tasks that come and go ----


def test_a_member_that_trains_some_of_its_tasks_keeps_its_one_copy(tmp_path: Path) -> None:
    config = configured("soft by tasks", "federation.tasks_per_order=1")
    coordinator = asyncio.run(federate(config, tmp_path / "some", MEMBERS))
    trained = [round_ for round_ in coordinator.journal.rounds() if round_.phase.publishes]
    orders = [round_.orders[f"train-{round_.number}.1-d"] for round_ in trained]
    assert {order.tasks for order in orders} == {("a0",), ("b1",)}
    for order in orders:
        (task,) = order.tasks
        assert [s.scope for s in order.scopes] == ["member/a0+b1", f"member/a0+b1/task/{task}"]
    over_grpc = asyncio.run(federate(config, tmp_path / "grpc", MEMBERS, "grpc"))
    assert digest_of(over_grpc) == digest_of(coordinator)
