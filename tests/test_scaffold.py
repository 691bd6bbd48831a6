"""SCAFFOLD (Karimireddy et al. 2020): its numbers, and a sum of variates that is one whatever happens."""

from __future__ import annotations

import asyncio
import shutil
from collections.abc import Mapping, Sequence
from contextlib import closing
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from numpy.typing import NDArray

from client.jobs.executor import prepared
from client.jobs.synchronizer import ClientModelSynchronizer
from client.state.store import RunStore
from common.bodies import ControlShare, ScopeVersion, Train
from common.clock import ManualClock
from common.config import Config
from common.errors import ConfigError, WireError
from common.methods.procedures import Scaffold
from common.orders import Order, PollKind, PollReply, UpdateState
from common.parameters.flat import views
from common.wire.messages import POLL_REPLY
from server.core.open_round import OrderState
from server.engine.coordinator import Coordinator
from server.runs.app import continue_run
from server.runs.assembly import in_memory
from server.runs.run_folder import RunFolder
from server.storage.journal import Journal
from server.storage.models import ModelFiles
from tests.crashes import Cast, Gate, Watch, crash_and_recover, model_made_here, prepare_run
from tests.federations import (
    SubmittingPort,
    array_config,
    contradicting_config,
    digest_of,
    federate,
    make_client,
    make_model,
)
from tests.training_cases import SETTINGS

CONTROLS = {"control/shared", "control/task/a0", "control/task/b1"}
Flat = NDArray[np.float64]
ROUNDS, STEPS, RATE = 5, 3, 0.3
THREE = (("a", ("a0",), "1/2"), ("b", ("b1",), "1/2"), ("c", ("a0", "b1"), "2/2"))
RIVALS = (("large", ("a0",), "1/2"), ("both", ("a0", "b1"), "2/2"), ("small", ("b1",), "1/2"))
ALIKE = tuple((name, ("a0", "b1"), f"{part}/3") for part, name in enumerate("abc", 1))
FITTING = ("training.procedure=scaffold", "training.optimizer=sgd", "training.max_grad_norm=0")
FITTING = (*FITTING, "aggregation.weights=uniform", "federation.min_clients=3")


def config_of(*overrides: str, tasks: Sequence[str] = ("a0", "b1")) -> Config:
    """Full batches, so that the steps of an order are its epochs."""
    steps = (f"training.num_rounds={ROUNDS}", f"training.local_epochs={STEPS}", "training.batch_size=64")
    return array_config(*FITTING, f"training.learning_rate={RATE}", *steps, *overrides, tasks=tasks)


def variates(state: Path) -> dict[str, dict[str, Flat]]:
    """What clients keep of their control variates, by client and scope."""
    return {folder.name: variates_in(folder) for folder in sorted(state.iterdir())}


def variates_in(folder: Path) -> dict[str, Flat]:
    """The same of one client."""
    (run,) = (path for path in folder.iterdir() if path.is_dir())
    kept = RunStore(run).private() or {}
    return {name: v.numpy().astype(np.float64) for name, v in kept.items() if "control/" in name}


class Oracle:
    """The gradient of a client's loss on all of its rows, at any point."""

    def __init__(self, config: Config, client: str, tasks: tuple[str, ...], partition: str) -> None:
        local = make_client(config, client, tasks, partition)
        welcome = asyncio.run(in_memory(config, make_model(config), ManualClock()).join(local.request))
        self._sets = prepared(local, welcome, None)
        self._replica = ClientModelSynchronizer(welcome, local.tasks, torch.device("cpu"))

    def gradient(self, at: Flat) -> Flat:
        model, schema = self._replica.model, self._replica.schemas["shared"]
        with torch.no_grad():
            self._replica.vectors["shared"].copy_(torch.from_numpy(at))
        model.eval()
        model.zero_grad()
        for item in self._sets:
            batch = item.train.batch(np.arange(len(item.train)))
            assert batch.labels is not None
            item.task.type.loss(model(item.task.name, batch), batch.labels, units=item.units).backward()
        found = torch.zeros(schema.size)
        named = views(found, schema)
        for name, parameter in model.named_parameters():
            if parameter.grad is not None:
                named[name].copy_(parameter.grad)
        return found.numpy().astype(np.float64)


def reference(oracles: dict[str, Oracle], x: Flat, taking_part: list[list[str]], rates: list[float]) -> Any:
    """Algorithm 1 of the paper, option II, global rate 1, in float64: x, c and every c_i."""
    c, own = np.zeros_like(x), {client: np.zeros_like(x) for client in oracles}
    for clients, rate in zip(taking_part, rates, strict=True):
        moves, changes = [], []
        for client in clients:
            y = x.copy()
            for _ in range(STEPS):
                y -= rate * (oracles[client].gradient(y) - own[client] + c)
            fresh = own[client] - c + (x - y) / (STEPS * rate)
            moves.append(y - x)
            changes.append(fresh - own[client])
            own[client] = fresh
        x = x + np.mean(moves, axis=0)
        c = c + len(clients) / len(oracles) * np.mean(changes, axis=0)
    return x, c, own


def test_the_numbers_are_those_of_the_paper_with_sampled_clients_and_a_falling_rate(tmp_path: Path) -> None:
    config = config_of(
        *("sharing.plan=full", "federation.client_fraction=0.6"),
        "training.schedule={name: linear, final_share: 0.5}",
    )
    coordinator = asyncio.run(federate(config, tmp_path, ALIKE))
    rounds = [r for r in coordinator.journal.rounds() if r.phase.publishes]
    taking_part = [sorted(o.client_id for o in r.orders.values() if o.state is OrderState.ACCEPTED) for r in rounds]
    assert len(set(map(tuple, taking_part))) > 1, "the same clients in every round"
    oracles = {name: Oracle(config, name, tasks, part) for name, tasks, part in ALIKE}
    start = make_model(config).vectors["shared"].numpy().astype(np.float64)
    rates = [RATE * (1 - 0.5 * number / (ROUNDS - 1)) for number in range(ROUNDS)]
    x, c, own = reference(oracles, start, taking_part, rates)
    assert np.abs(c).max() > 1e-2 and np.abs(x - start).max() > 0.1
    np.testing.assert_allclose(coordinator.vectors["shared"], x, rtol=0, atol=2e-5)
    np.testing.assert_allclose(coordinator.vectors["control/shared"] / 3, c, rtol=0, atol=2e-5)
    for client, kept in variates(tmp_path).items():
        np.testing.assert_allclose(kept["control/shared"], own[client], rtol=0, atol=2e-5)


def require_sum(coordinator: Coordinator, state: Path) -> None:
    """Check that what the coordinator has is the sum of what clients keep."""
    require_equal_sums(coordinator.vectors, variates(state))


def require_equal_sums(vectors: Mapping[str, Any], kept: Mapping[str, Mapping[str, Flat]]) -> None:
    """Check that the sums among a coordinator's vectors are those of what clients keep."""
    sums = sums_of(kept)
    assert sums.keys() == {name for name in vectors if name.startswith("control/")}
    for name, whole in sums.items():
        np.testing.assert_allclose(vectors[name], whole, rtol=0, atol=1e-5)


def sums_of(kept: Mapping[str, Mapping[str, Flat]]) -> dict[str, Flat]:
    """The sums of clients' variates, by scope."""
    sums = dict[str, Flat]()
    for name, values in (item for found in kept.values() for item in found.items()):
        sums[name] = sums.get(name, np.zeros_like(values)) + values
    return sums


def saved_in(run: Path, version: int) -> Mapping[str, Any]:
    """The values of a run folder."""
    return ModelFiles(run, RunFolder(run).read_description()[1]).read(version)


@pytest.mark.parametrize("how", ["direct", "codec", "grpc"])
def test_one_model_over_every_transport_and_the_sum_is_that_of_the_clients(tmp_path: Path, how: str) -> None:
    found = []
    for place, way in (("one", "direct"), ("other", how)):
        coordinator = asyncio.run(federate(config_of(), tmp_path / place, THREE, how=way, shuffle=3))
        require_sum(coordinator, tmp_path / place)
        found.append(digest_of(coordinator))
    assert found[0] == found[1]


def test_a_client_that_trains_heads_alone_has_variates_of_these_alone(tmp_path: Path) -> None:
    coordinator = asyncio.run(federate(config_of("client.trains=head"), tmp_path, THREE))
    assert all(set(kept) <= {"control/task/a0", "control/task/b1"} for kept in variates(tmp_path).values())
    assert not coordinator.vectors["control/shared"].any()


def test_a_task_that_fell_back_takes_its_variates_out_of_the_sum(tmp_path: Path) -> None:
    """The variates of the layers that all share stay where a client's other task goes on."""
    guard = ("guard={enabled: true, margin: 0.2, rounds: 1}", "training.num_rounds=6", "training.learning_rate=0.3")
    coordinator = asyncio.run(federate(contradicting_config(tmp_path, *FITTING, *guard), tmp_path / "state", RIVALS))
    assert 0 < coordinator.state.fallback_tasks["b1"] < 6 and "a0" not in coordinator.state.fallback_tasks
    require_sum(coordinator, tmp_path / "state")
    found = {client: {s for s, v in kept.items() if v.any()} for client, kept in variates(tmp_path / "state").items()}
    going_on = {"control/shared", "control/task/a0"}
    assert found == {"large": going_on, "both": going_on, "small": set()}
    (run,) = (path for path in (tmp_path / "state" / "small").iterdir() if path.is_dir())
    assert any(scope.startswith("own/") for scope in RunStore(run).private() or {})


@pytest.mark.parametrize("how", ["late", "refused"])
def test_an_update_that_does_not_count_changes_neither_the_sum_nor_its_clients_variates(
    tmp_path: Path, how: str
) -> None:
    asyncio.run(federate(config_of("training.num_rounds=1"), tmp_path / "before", THREE))
    config = config_of("training.num_rounds=2", "federation.round_timeout_seconds=100")
    clock = ManualClock()
    coordinator = in_memory(config, make_model(config), clock)
    watch, gate = Watch(coordinator), Gate(Spoiling(coordinator) if how == "refused" else coordinator, "c")

    async def play() -> None:
        cast = Cast(config, THREE)
        await coordinator.start()
        agents = asyncio.gather(
            *(cast.agent(name, gate if name == "c" else watch, tmp_path / "after").run() for name in cast.names)
        )
        gate.let_through("train-1.1")
        await gate.reached("train-2.1")
        await watch.count("train-2.1", 2)
        if how == "late":
            clock.advance(100.0)
            await coordinator.tick()
            assert coordinator.state.completed_rounds == 2
        gate.let_through("train-2.1")
        await agents

    asyncio.run(asyncio.wait_for(play(), 60))
    ended = coordinator.journal.rounds()[1].orders["train-2.1-c"].state
    assert ended is (OrderState.EXPIRED if how == "late" else OrderState.FAILED)
    require_sum(coordinator, tmp_path / "after")
    before, after = variates(tmp_path / "before"), variates(tmp_path / "after")
    np.testing.assert_equal(after["c"], before["c"])
    for client in "ab":
        assert any(not np.array_equal(after[client][scope], values) for scope, values in before[client].items())


class Spoiling(SubmittingPort):
    """A port that loses a scope of the updates of round 2."""

    async def submit(self, session: Any, header: Any, chunks: Any) -> Any:
        if header.order_id.startswith("train-2.1"):
            header = replace(header, scopes=header.scopes[:-1])
        return await self._port.submit(session, header, chunks)


@pytest.mark.slow
@pytest.mark.parametrize("clients_die", [False, True], ids=["clients live on", "clients die too"])
def test_dying_after_any_effect_leaves_no_trace(tmp_path: Path, clients_die: bool) -> None:
    config = config_of("training.num_rounds=2", "training.local_epochs=1")
    whole = digest_of(asyncio.run(federate(config, tmp_path / "whole", THREE)))
    template, cast = prepare_run(config, tmp_path / "template"), Cast(config, THREE)
    for dies_after in range(1, 20, 3):
        place = tmp_path / str(dies_after)
        found, _ = asyncio.run(crash_and_recover(config, template, place, cast, dies_after, clients_die))
        assert found == whole, dies_after


@pytest.mark.parametrize(
    ("change", "line"),
    [
        ("training.optimizer=adamw", "training.optimizer: must be sgd"),
        ("training.optimizer={name: sgd, momentum: 0.5}", "training.optimizer: must be sgd"),
        ("training.max_grad_norm=1", "training.max_grad_norm: shortens"),
        ("aggregation.weights=examples", "aggregation.weights: clients count alike"),
        ("aggregation.robust=median", "aggregation.robust: leaves"),
        ("aggregation.norm_bound=1", "aggregation.norm_bound: shortens"),
        ("federation.update_encoding=dense-bfloat16", "federation.update_encoding: bfloat16"),
        ("sharing.plan=local", "sharing.plan: everything is private"),
        ("sharing.plan=soft", "sharing: copies of groups and members"),
    ],
)
def test_what_does_not_fit_is_refused(change: str, line: str) -> None:
    with pytest.raises(ConfigError) as caught:
        config_of(change)
    assert any(problem.startswith(line) for problem in caught.value.problems), caught.value.problems


@pytest.mark.parametrize(
    ("scopes", "shares"),
    [(("shared", "control/shared"), ()), (("shared",), ("shared",)), (("control/shared",), ("shared",))],
)
def test_a_control_comes_with_its_scope_and_its_share(scopes: tuple[str, ...], shares: tuple[str, ...]) -> None:
    settings = replace(SETTINGS, procedure=Scaffold())
    body = Train(settings, 5, controls=tuple(ControlShare(scope, 3) for scope in shares))
    order = Order("o1", 1, 1, tuple(ScopeVersion(scope, 0) for scope in scopes), 60.0, body)
    with pytest.raises(WireError, match=r"controls: .* do not fit"):
        POLL_REPLY.decode(POLL_REPLY.encode(PollReply(PollKind.ORDER, UpdateState.NONE, order=order)))


def test_another_procedure_between_leaves_variates_and_their_sum_as_they_are(tmp_path: Path) -> None:
    """A run may go on with another procedure, and later with this one again: variates are then as old as before."""
    template, cast, kept = prepare_run(config_of(), tmp_path / "template"), Cast(config_of(), THREE), []
    for leg, procedure in enumerate(("scaffold", "plain", "scaffold"), 1):
        config = config_of(f"training.procedure={procedure}", f"training.num_rounds={2 * leg}")
        place = tmp_path / str(leg)
        for name in cast.names if kept else ():
            shutil.copytree(tmp_path / str(leg - 1) / name, place / name)
        asyncio.run(crash_and_recover(config, template, place, cast, None, False))
        template = place / "run"
        kept.append({name: variates_in(place / name) for name in cast.names})
    first, second, third = kept
    assert {scope for found in first.values() for scope in found} == CONTROLS
    np.testing.assert_equal(first, second)
    for scope in CONTROLS:
        assert any(not np.array_equal(third[n][scope], second[n][scope]) for n in third if scope in third[n])
    require_equal_sums(saved_in(template, 6), third)


@pytest.mark.parametrize("plan", ["hard", "full"])
def test_a_task_that_joins_begins_with_variates_of_zero_and_keeps_the_others(tmp_path: Path, plan: str) -> None:
    """With plan full the new head is a part of the scope that all share, so that variates and their sum grow."""
    few = config_of(f"sharing.plan={plan}", "training.num_rounds=2")
    everybody = "federation.min_clients=4"
    more = config_of(f"sharing.plan={plan}", "training.num_rounds=4", everybody, tasks=("a0", "b1", "c2"))
    template = prepare_run(few, tmp_path / "template")
    asyncio.run(crash_and_recover(few, template, tmp_path / "few", Cast(few, THREE), None, False))
    run, before = tmp_path / "few" / "run", {name: variates_in(tmp_path / "few" / name) for name, *_ in THREE}
    folder = RunFolder.resume(run)
    with closing(Journal(folder.journal)) as journal, model_made_here():
        continue_run(more, folder, journal)
    folder.close()
    grown = saved_in(run, 2)
    for scope, whole in sums_of(before).items():
        np.testing.assert_allclose(grown[scope][: len(whole)], whole, rtol=0, atol=1e-5)
        assert not grown[scope][len(whole) :].any()
    clients = (*THREE, ("d", ("c2",), "1/1"))
    for name, *_ in THREE:
        shutil.copytree(tmp_path / "few" / name, tmp_path / "more" / name)
    asyncio.run(crash_and_recover(more, run, tmp_path / "more", Cast(more, clients), None, False))
    after = {name: variates_in(tmp_path / "more" / name) for name, *_ in clients}
    assert all(values.any() for values in after["d"].values())
    require_equal_sums(saved_in(tmp_path / "more" / "run", 4), after)
