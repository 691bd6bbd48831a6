"""Clients whose tasks change: from order to order, and when they come back with others."""

from __future__ import annotations

import asyncio
from collections import Counter
from contextlib import suppress
from pathlib import Path

import pytest
from safetensors.numpy import load_file

from client.agent import Agent
from client.jobs.executor import ThreadExecutor
from common.bodies import Evaluate
from common.clock import ManualClock
from common.config import Config, load_config
from common.errors import ConfigError, WireError
from server.core.open_round import OrderState
from server.core.phases import Phase
from server.core.selection import tasks_of_order
from server.core.state import ClientRecord, RunSettings
from server.engine.coordinator import Coordinator
from server.runs.assembly import in_memory
from tests.core_cases import Table, rules
from tests.crashes import Fragile
from tests.federations import array_config, digest_of, federate, make_client, make_model

CLIENTS = (("d", ("a0", "b1"), "1/3"), ("e", ("a0",), "2/3"), ("f", ("b1",), "3/3"))


def member(name: str, **examples: int) -> ClientRecord:
    return ClientRecord(name, tuple(sorted(examples)), examples, (), "token", 0.0)


def choosing(count: int, choice: str = "rotate", rounds: int = 5) -> RunSettings:
    return rules(tasks_per_order=count, task_choice=choice, num_rounds=rounds)


@pytest.mark.parametrize("count", [1, 2, 3, 4])
def test_tasks_in_turns_come_equally_often(count: int) -> None:
    who = member("a", a=1, b=1, c=1, d=1)
    found = [tasks_of_order(choosing(count), who, number) for number in range(1, 5)]
    assert all(len(tasks) == count and list(tasks) == sorted(tasks) for tasks in found)
    assert Counter(task for tasks in found for task in tasks) == dict.fromkeys("abcd", count)
    firsts = {tasks_of_order(choosing(1), member(f"c{i}", a=1, b=1, c=1), 1) for i in range(20)}
    assert len(firsts) == 3, "all clients train the same task at a time"


def test_drawn_tasks_follow_their_rows_at_first_and_are_all_alike_in_the_end() -> None:
    """p = n^a / sum: 3 in 4 for 300 of 400 rows at a = 1, 1 in 2 at a = 0; 0.634 = 1 / (1 + 3^-0.5) half way.

    2000 draws have a standard deviation of 0.011, so 0.04 is more than three of them.
    """
    counts = {
        number: sum(
            tasks_of_order(choosing(1, "examples"), member(f"c{i}", few=100, many=300), number) == ("many",)
            for i in range(2000)
        )
        / 2000
        for number in (1, 3, 5, 9)
    }
    assert counts == pytest.approx({1: 0.75, 3: 0.634, 5: 0.5, 9: 0.5}, abs=0.04)


def test_a_draw_depends_on_seed_round_and_client_alone_and_leaves_tasks_without_rows_to_the_end() -> None:
    who = member("a", a=5, b=5, c=0)
    drawn = [tasks_of_order(choosing(2, "examples"), who, number) for number in range(1, 6)]
    assert drawn == [("a", "b")] * 5
    once = [tasks_of_order(choosing(1, "examples"), who, number) for number in range(1, 6)]
    assert once == [tasks_of_order(choosing(1, "examples"), who, number) for number in range(1, 6)]
    assert tasks_of_order(choosing(3, "examples"), who, 1) == ("a", "b", "c")


def test_an_order_holds_the_scopes_of_its_tasks_and_the_last_one_scores_them_all() -> None:
    table = Table(choosing(1, rounds=2))
    table.join("a", "sst2", "qqp")
    seen = []
    for _ in range(2):
        order = table.order("a")
        assert order is not None and len(order.tasks) == 1
        assert [scope.scope for scope in order.scopes] == ["shared", f"task/{order.tasks[0]}"]
        seen += order.tasks
        table.answer("a")
    assert sorted(seen) == ["qqp", "sst2"]
    assert sorted(table.state.versions.values()) == [1, 2, 2], "the head that waits keeps its version"
    last = table.order("a")
    assert last is not None and isinstance(last.body, Evaluate) and last.tasks == ("qqp", "sst2")


def test_an_order_stands_as_long_as_the_client_has_its_tasks() -> None:
    table = Table(rules(min_clients=2, clients_per_task=0))
    table.join("a", "sst2")
    table.join("b", "qqp")
    before = table.order("a")
    table.join("a", "sst2", "qqp")
    assert table.order("a") == before
    table.join("a", "qqp")
    assert table.order("a") is None and table.state.open is not None
    dropped = table.state.open.orders["train-1.1-a"]
    assert (dropped.state, dropped.note) == (OrderState.FAILED, "the client came back without sst2")
    assert table.state.clients["a"].tally.failed == 1
    table.answer("b")
    after = table.order("a")
    assert after is not None and (after.round, after.tasks) == (2, ("qqp",))


@pytest.mark.parametrize("changes", [(), ("training.procedure=ditto",), ("training.procedure=fedrep",)])
def test_an_order_about_one_task_is_that_of_a_client_without_others(tmp_path: Path, changes: tuple[str, ...]) -> None:
    config = array_config("federation.tasks_per_order=1", "training.num_rounds=1", "federation.min_clients=3", *changes)
    some = asyncio.run(federate(config, tmp_path / "some", CLIENTS))
    assert digest_of(asyncio.run(federate(config, tmp_path / "grpc", CLIENTS, "grpc"))) == digest_of(some)
    (chosen,) = some.journal.rounds()[0].orders["train-1.1-d"].tasks
    alone = asyncio.run(federate(config, tmp_path / "alone", (("d", (chosen,), "1/3"), *CLIENTS[1:])))
    assert digest_of(some) == digest_of(alone)


def test_what_a_client_keeps_of_a_task_outlives_orders_about_others(tmp_path: Path) -> None:
    config = array_config(
        *("federation.tasks_per_order=1", "federation.min_clients=3", "training.num_rounds=3"),
        *("sharing.plan=private_heads", "training.procedure=ditto", "training.procedure.mu=1.0"),
    )
    coordinator = asyncio.run(federate(config, tmp_path, CLIENTS))
    kept = load_file(tmp_path / "d" / "memory" / "private.safetensors")
    assert sorted(kept) == [
        *("own/private/a0", "own/private/b1", "own/shared"),
        *("private/a0", "private/b1"),
    ]
    initial = {scope: vector for scope, vector in make_model(config).vectors.items() if scope.startswith("private/")}
    assert all((kept[scope] != initial[scope].numpy()).any() for scope in initial)
    orders = [round_.orders[f"train-{n}.1-d"] for n, round_ in enumerate(coordinator.journal.rounds()[:3], 1)]
    assert {result.task for order in orders for result in order.results} == {"a0", "b1"}
    assert all(len(order.results) == 1 for order in orders)


async def come_back_with(
    config: Config, state: Path, fatal: int, when: str, before: tuple[str, ...], after: tuple[str, ...]
) -> tuple[Coordinator, bool]:
    """A federation in which client d dies at a call and comes back with other tasks; whether it got so far."""
    coordinator = in_memory(config, make_model(config), ManualClock())
    await coordinator.start()
    port = Fragile(coordinator, fatal, when)
    others = [Agent(coordinator, make_client(config, n, t, p), state / n).run() for n, t, p in CLIENTS[1:]]
    first = asyncio.ensure_future(Agent(port, make_client(config, "d", before, "1/3"), state / "d").run())
    running = asyncio.gather(*others)
    died = asyncio.ensure_future(port.died.wait())
    await asyncio.wait((first, died), return_when=asyncio.FIRST_COMPLETED)
    died.cancel()
    if not port.died.is_set():
        await asyncio.gather(first, running)
        return coordinator, False
    first.cancel()
    with suppress(asyncio.CancelledError):
        await first
    again = Agent(coordinator, make_client(config, "d", after, "1/3"), state / "d")
    await asyncio.wait_for(asyncio.gather(again.run(), running), 60)
    return coordinator, True


@pytest.mark.parametrize(("before", "after"), [(("a0",), ("b1",)), (("a0", "b1"), ("a0",)), (("b1",), ("a0", "b1"))])
def test_a_client_may_die_at_any_call_and_come_back_with_other_tasks(
    tmp_path: Path, before: tuple[str, ...], after: tuple[str, ...]
) -> None:
    config = array_config("sharing.plan=private_heads", "federation.min_clients=3")
    fatal, came_so_far, initial = 0, True, make_model(config).vectors
    while came_so_far:
        fatal += 1
        place = tmp_path / str(fatal)
        coordinator, came_so_far = asyncio.run(come_back_with(config, place, fatal, "after", before, after))
        state = coordinator.state
        tally = state.clients["d"].tally
        assert state.phase is Phase.FINISHED and state.completed_rounds == 2
        assert tally.assigned == tally.completed + tally.failed + tally.expired == 3, f"call {fatal}: {tally}"
        if came_so_far:
            orders = [o for r in coordinator.journal.rounds() for o in r.orders.values() if o.client_id == "d"]
            counted = {
                t for o in orders if o.state is OrderState.ACCEPTED and o.order_id[:5] == "train" for t in o.tasks
            }
            kept = load_file(place / "d" / "memory" / "private.safetensors")
            for task in counted:
                assert (kept[f"private/{task}"] != initial[f"private/{task}"].numpy()).any(), f"call {fatal}: {task}"
    assert fatal > 7


def test_an_order_about_a_task_that_a_client_has_not_is_refused(tmp_path: Path) -> None:
    config = array_config()
    client = make_client(config, "e", ("a0",), "1/1")
    table = Table()
    table.join("a", "sst2", "qqp")
    order = table.order("a")
    assert order is not None

    async def carry_out() -> None:
        coordinator = in_memory(config, make_model(config), ManualClock())
        await coordinator.start()
        executor = ThreadExecutor(client, await coordinator.join(client.request), b"", tmp_path)
        async with executor.workspace() as workspace:
            await workspace.run(order, {}, lambda _: None)

    with pytest.raises(WireError, match="this client has no task 'qqp'"):
        asyncio.run(carry_out())


def test_a_choice_that_nobody_reads_is_refused() -> None:
    with pytest.raises(ConfigError) as caught:
        load_config(None, ["tasks.sst2=", "federation.task_choice=examples"])
    (problem,) = caught.value.problems
    assert problem.startswith("federation.task_choice: only tasks_per_order reads it; set") and "\n" not in problem
