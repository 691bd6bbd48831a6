from dataclasses import replace

import pytest

from common.bodies import Evaluate
from common.errors import Reason, Refused
from common.orders import JoinRequest, Session
from common.tasks import KNOWN_TASKS
from server.core.admission import check_answer, check_join, require_client
from server.core.closing import required
from server.core.effects import (
    Combine,
)
from server.core.events import Answered, Left, OrderFailed, Seen, Started, Tick
from server.core.open_round import OrderState
from server.core.phases import Phase
from server.core.selection import select
from server.core.weighing import scope_weights
from tests.core_cases import RULES, TASKS, Table, rules


def two_clients(**changes):
    table = Table(rules(**changes))
    table.join("a", "sst2")
    table.join("b", "qqp")
    return table


def test_a_client_with_two_tasks_weighs_both_in_shared_and_each_in_its_head():
    table = Table()
    table.join("ab", "sst2", "qqp")
    header = table.header("ab")
    header = replace(header, results=tuple(replace(r, examples=n) for r, n in zip(header.results, (7, 5), strict=True)))
    order, _ = check_answer(table.settings, table.state, "ab", header)
    examples = {result.task: result.examples for result in header.results}
    expected = {"shared": 12, "task/sst2": examples["sst2"], "task/qqp": examples["qqp"]}
    assert scope_weights(table.settings, order, header.results) == expected


def test_task_weights_count_in_thousandths_in_the_shared_scope_only():
    weighted = tuple(replace(task, weight=2.5 if task.name == "sst2" else 1.0) for task in TASKS)
    table = two_clients(tasks=weighted)
    order, _ = check_answer(table.settings, table.state, "a", table.header("a", examples=10))
    weights = scope_weights(table.settings, order, table.header("a", examples=10).results)
    assert weights == {"shared": 25_000, "task/sst2": 10}


def test_the_same_update_again_changes_nothing_and_other_bytes_are_refused():
    table = two_clients()
    header = table.header("a")
    table.apply(Answered(0.0, "a", header))
    state = table.state
    assert table.apply(Answered(0.0, "a", header)) == [] and table.state == state
    with pytest.raises(Refused) as refusal:
        table.apply(Answered(0.0, "a", replace(header, digest="e" * 32)))
    assert refusal.value.reason is Reason.DIFFERENT_UPDATE and table.state == state


@pytest.mark.parametrize(
    ("change", "reason"),
    [
        (lambda h: replace(h, order_id="train-9.1-a"), Reason.TOO_LATE),
        (lambda h: replace(h, order_id="train-1.1-b"), Reason.UNKNOWN_ORDER),
        (lambda h: replace(h, codec="pickle"), Reason.MALFORMED),
        (lambda h: replace(h, scopes=h.scopes[:1]), Reason.SCHEMA_MISMATCH),
        (
            lambda h: replace(h, scopes=(replace(h.scopes[0], schema_digest="0" * 64), *h.scopes[1:])),
            Reason.SCHEMA_MISMATCH,
        ),
        (lambda h: replace(h, scopes=(replace(h.scopes[0], nbytes=4), *h.scopes[1:])), Reason.MALFORMED),
        (lambda h: replace(h, scopes=(replace(h.scopes[0], nbytes=404), *h.scopes[1:])), Reason.TOO_LARGE),
        (lambda h: replace(h, codec="rows-float32"), Reason.MALFORMED),
        (lambda h: replace(h, scopes=(replace(h.scopes[0], base_version=3), *h.scopes[1:])), Reason.SCHEMA_MISMATCH),
        (lambda h: replace(h, results=()), Reason.MALFORMED),
        (
            lambda h: replace(
                h, results=(replace(h.results[0], validation=replace(h.results[0].validation, labels=(1,))),)
            ),
            Reason.MALFORMED,
        ),
    ],
)
def test_an_update_that_does_not_fit_is_refused_and_leaves_no_trace(change, reason):
    table = two_clients()
    before = table.state
    with pytest.raises(Refused) as refusal:
        table.apply(Answered(0.0, "a", change(table.header("a"))))
    assert refusal.value.reason is reason
    assert table.state == before and "\n" not in refusal.value.message


def test_a_join_with_an_unknown_task_or_another_definition_is_refused():
    swapped = replace(KNOWN_TASKS["sst2"], labels=("positive", "negative"))
    cases = [
        (JoinRequest("c", (KNOWN_TASKS["rte"],), ()), Reason.UNKNOWN_TASK, "sst2, qqp"),
        (JoinRequest("c", (swapped,), ()), Reason.TASK_MISMATCH, "[negative, positive] against [positive, negative]"),
        (JoinRequest("c", (), ()), Reason.UNKNOWN_TASK, "--tasks"),
    ]
    table = Table()
    for request, reason, text in cases:
        with pytest.raises(Refused) as refusal:
            check_join(table.settings, table.state, request)
        assert refusal.value.reason is reason and text in refusal.value.message


def test_of_two_processes_with_one_id_the_later_one_wins():
    table = Table()
    table.join("a", "sst2")
    old = Session("run", "a", "an older token")
    with pytest.raises(Refused) as refusal:
        require_client(table.settings, table.state, old)
    assert refusal.value.reason is Reason.SUPERSEDED
    with pytest.raises(Refused) as refusal:
        require_client(table.settings, table.state, Session("another", "a", "token-a"))
    assert refusal.value.reason is Reason.OTHER_RUN


def test_a_silent_client_loses_its_lease_and_its_order():
    table = two_clients(quorum=0.5)
    table.answer("a")
    table.now = RULES.lease_seconds
    table.apply(Seen(table.now, "a", ""))
    table.apply(Tick(table.now))
    assert table.state.completed_rounds == 1
    assert [m.client_id for m in table.state.present()] == ["a"]
    assert table.of(Combine)[0].totals == {"shared": 100, "task/sst2": 100}


def test_leaving_gives_the_order_up_and_coming_back_is_possible():
    table = two_clients(quorum=0.5)
    table.answer("a")
    table.apply(Left(0.0, "b"))
    assert table.state.completed_rounds == 1 and table.order("a").round == 2
    table.join("b", "qqp")
    assert table.order("b") is None
    table.answer("a")
    assert table.state.phase is Phase.EVALUATING and isinstance(table.order("b").body, Evaluate)


def test_the_start_timeout_starts_with_whoever_is_there_or_fails():
    table = Table()
    table.join("a", "sst2")
    table.now = RULES.start_timeout_seconds
    table.apply(Seen(table.now, "a", ""))
    assert table.state.phase is Phase.TRAINING
    lonely = Table()
    lonely.apply(Tick(RULES.start_timeout_seconds))
    assert lonely.state.phase is Phase.FAILED and "start_timeout_seconds" in lonely.state.reason


def test_a_restart_keeps_orders_but_asks_for_updates_again():
    table = two_clients()
    order = table.order("a")
    table.apply(Seen(0.0, "a", ""))
    restored = replace(table.state, open=replace(table.state.open, deadline=table.settings.round_timeout_seconds))
    table.state = restored
    table.apply(Started(1000.0))
    assert table.state.open.deadline == 1000.0 + table.settings.round_timeout_seconds
    table.now = 1000.0
    table.join("a", "sst2")
    assert table.order("a").order_id == order.order_id


def test_selection_depends_on_seed_and_round_alone_and_covers_every_task():
    table = Table(rules(clients_per_task=5, client_fraction=0.4))
    for number in range(5):
        table.join(f"s{number}", "sst2")
        table.join(f"q{number}", "qqp")
    chosen = [[m.client_id for m in select(table.settings, table.state.present(), n)] for n in range(1, 30)]
    assert all(sum(c.startswith(kind) for c in names) == 2 for names in chosen for kind in "sq")
    assert len({tuple(names) for names in chosen}) > 5
    assert {name for names in chosen for name in names} == set(table.state.clients)
    assert set(chosen[0]) == {order.client_id for order in table.state.open.orders.values()}


def test_orders_count_apart_from_inputs():
    table = two_clients(quorum=0.5)
    table.answer("a")
    table.apply(OrderFailed(0.0, "b", table.order("b").order_id, "out of memory"))
    tallies = {name: member.tally for name, member in table.state.clients.items()}
    assert (tallies["a"].assigned, tallies["a"].completed, tallies["a"].failed) == (2, 1, 0)
    assert (tallies["b"].assigned, tallies["b"].completed, tallies["b"].failed) == (2, 0, 1)
    assert all(order.state is OrderState.ISSUED for order in table.state.open.orders.values())


@pytest.mark.parametrize(("share", "orders", "needed"), [(0.55, 100, 55), (0.07, 100, 7), (0.5, 3, 2), (0.01, 5, 1)])
def test_a_share_of_orders_is_rounded_up_but_not_for_a_rounding_error(share, orders, needed):
    assert required(share, orders) == needed


@pytest.mark.parametrize(
    ("change", "reason"),
    [
        (lambda h: replace(h, scopes=(*h.scopes, h.scopes[0])), Reason.SCHEMA_MISMATCH),
        (lambda h: replace(h, results=(replace(h.results[0], train_loss=float("nan")),)), Reason.MALFORMED),
        (lambda h: replace(h, results=(replace(h.results[0], train_loss=1e300),)), Reason.MALFORMED),
    ],
    ids=["a scope twice", "loss is nan", "loss overflows"],
)
def test_an_update_that_would_spoil_sums_is_refused(change, reason):
    table = two_clients()
    with pytest.raises(Refused) as refusal:
        table.apply(Answered(0.0, "a", change(table.header("a"))))
    assert refusal.value.reason is reason


def test_after_a_restart_nobody_speaks_for_a_member_without_joining_again():
    table = two_clients()
    table.apply(Started(5.0))
    for token in ("", "token-a"):
        with pytest.raises(Refused) as refusal:
            require_client(table.settings, table.state, Session("run", "a", token))
        assert refusal.value.reason is Reason.UNKNOWN_CLIENT
