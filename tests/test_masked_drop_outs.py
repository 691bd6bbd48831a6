"""Who may drop out of a masked round, in which stage, and what restarts come to: the exact sum, or nothing."""

from __future__ import annotations

from dataclasses import replace
from itertools import product

import numpy as np
import pytest

from common.bodies import Train
from common.errors import Reason, Refused
from common.orders import UpdateState
from server.core.answers import update_state_of
from server.core.effects import (
    ClearSums,
    Combine,
    Notice,
    OpenSums,
    StoreVersion,
)
from server.core.events import Answered, Left, Started
from server.core.open_round import OrderState
from server.core.phases import Phase
from tests.masked_cases import ALL, MaskedTable, combined, masked_rules, table_of, trained


@pytest.mark.parametrize("stage", ["keys", "shares", "train", "unmask"])
def test_a_client_may_drop_out_in_every_stage(stage: str) -> None:
    table = table_of({name: {"sst2": 10, "qqp": 10} for name in ALL})
    here = list(ALL)
    while table.state.completed_rounds == 0:
        if table.phase == stage:
            here.remove("dee")
            table.fail("dee")
        table.answers(*(name for name in here if table.order(name) is not None))
    counted = 5 if stage == "unmask" else 4
    assert combined(table).totals == {"shared": 20 * counted, "task/qqp": 10 * counted, "task/sst2": 10 * counted}
    survivors = ALL if stage == "unmask" else tuple(name for name in ALL if name != "dee")
    for circle, cells in table.opened.items():
        for name, cell in cells.items():
            assert np.array_equal(cell, table.plain_sum(circle, name, *survivors))


@pytest.mark.slow
def test_all_ways_of_dropping_out_give_the_exact_sum_or_nothing() -> None:
    """4^5: each of five members goes in one of three stages, or never; V13 says which of these can be opened."""
    exact = given_up = 0
    for pattern in product(("shares", "train", "unmask", ""), repeat=5):
        table = table_of({name: {"sst2": 1} for name in ALL}, num_rounds=1, tasks=masked_rules().tasks[:1], quorum=0.01)
        goes = dict(zip(ALL, pattern, strict=True))
        here = set(ALL)
        while table.state.attempt == 1 and table.state.completed_rounds == 0:
            phase = table.phase
            leaving = {name for name in here if goes[name] == phase}
            here -= leaving
            waiting = [name for name in ALL if table.order(name) is not None]
            table.answers(*(name for name in waiting if name in here))
            if table.phase == phase and table.state.attempt == 1 and table.state.completed_rounds == 0:
                table.fail(*(name for name in waiting if name not in here))
        if table.state.completed_rounds:
            exact += 1
            asked = table.of(OpenSums)[-1]
            assert isinstance(asked, OpenSums)
            for closed in asked.circles:
                for name, cell in table.opened[closed.layout.circle.name].items():
                    assert np.array_equal(cell, table.plain_sum(closed.layout.circle.name, name, *closed.survivors))
        else:
            given_up += 1
            assert not table.of(StoreVersion)
    # Three of five must answer the last order: the threshold of five is three, and three is `min_clients`.
    enough = sum(sum(stage == "" for stage in pattern) >= 3 for pattern in product(("a", "b", "c", ""), repeat=5))
    assert (exact, given_up) == (enough, 4**5 - enough)


def test_what_too_few_would_train_stays_as_it_is() -> None:
    table = table_of({"ann": {"sst2": 1}, "bob": {"sst2": 2}, "cy": {"sst2": 3, "qqp": 4}, "dee": {"qqp": 5}})
    said = [notice.text for notice in table.of(Notice) if notice.warning]
    assert said == [
        "fewer than 3 clients (secure_aggregation.min_clients) hold task/qqp (2): these are not trained",
    ]
    table.answers("ann", "bob", "cy", "dee")
    table.answers("ann", "bob", "cy", "dee")
    order = table.order("cy")
    assert order is not None
    assert isinstance(order.body, Train)
    assert order.body.fixed == ("task/qqp",)
    table.answers("ann", "bob", "cy", "dee")
    table.answers("ann", "bob", "cy", "dee")
    assert combined(table).totals == {"shared": 15, "task/sst2": 6}


def test_a_circle_that_falls_short_leaves_the_others_alone() -> None:
    table = table_of()
    table.answers(*ALL)
    table.answers(*ALL)
    # Two of four are left for qqp; of shared there are three and of sst2 three.
    table.answers("ann", "bob", "cy")
    table.fail("dee", "eve")
    assert table.phase == "unmask"
    table.answers("ann", "bob", "cy")
    assert combined(table).totals == {"shared": 10 + 20 + 30 + 50 + 5, "task/sst2": 90}
    assert set(table.opened) >= {closed.layout.circle.name for closed in table.of(OpenSums)[-1].circles}


def test_too_few_answers_to_the_last_order_give_everything_up_and_the_round_starts_again() -> None:
    table = trained(table_of({name: {"sst2": 10} for name in ALL}, tasks=masked_rules().tasks[:1]))
    table.answers("ann", "bob")
    table.fail("cy", "dee", "eve")
    assert table.state.completed_rounds == 0
    assert table.state.attempt == 2
    assert table.phase == "keys"
    assert not table.of(Combine)
    assert table.of(ClearSums)
    assert update_state_of(table.state, table.state.clients["ann"], "train-1.1-ann") is UpdateState.DISCARDED


def test_a_stage_closes_when_its_time_is_over() -> None:
    table = table_of()
    table.answers("ann", "bob", "cy", "dee")
    assert table.phase == "keys"
    table.stage_over()
    assert table.phase == "shares"
    assert table.order("eve") is None


def test_a_late_answer_to_a_stage_is_refused_and_nothing_else_happens() -> None:
    table = table_of()
    order = table.order("eve")
    assert order is not None
    late = table.members["eve"].answer(order).head
    table.answers("ann", "bob", "cy", "dee")
    table.stage_over()
    with pytest.raises(Refused) as refusal:
        table.apply(Answered(table.now, "eve", late))
    assert refusal.value.reason is Reason.TOO_LATE


def test_a_restart_in_any_stage_asks_again_and_comes_to_the_same_sums() -> None:
    quiet = trained(table_of())
    quiet.answers(*ALL)
    for stage in ("keys", "shares", "train", "unmask"):
        table = table_of()
        while table.state.completed_rounds == 0:
            if table.phase == stage:
                table.answers("ann", "bob")
                again(table)
            table.answers(*ALL)
        assert combined(table) == combined(quiet)
        for circle, cells in quiet.opened.items():
            for name, cell in cells.items():
                assert np.array_equal(cell, table.opened[circle][name])


def again(table: MaskedTable) -> None:
    """The coordinator dies and comes back: orders of the open phase are outstanding, sums in memory are gone."""
    open_ = table.state.open
    assert open_ is not None
    orders = {
        name: replace(order, state=OrderState.ISSUED, digest="", content=None) for name, order in open_.orders.items()
    }
    clients = {name: replace(client, token="") for name, client in table.state.clients.items()}
    table.state = replace(table.state, open=replace(open_, orders=orders), clients=clients)
    table.sums = {}
    table.apply(Started(table.now))
    for name, examples in table.members.items():
        table.join(name, *examples.examples, examples=1, validation=1)


def test_a_run_ends_without_scores_where_too_few_are_left_to_score() -> None:
    table = trained(table_of({name: {"sst2": 10, "qqp": 10} for name in ("ann", "bob", "cy")}))
    table.answers("ann", "bob", "cy")
    assert table.phase == "scorekeys"
    table.fail("ann")
    table.answers("bob", "cy")
    assert table.state.phase is Phase.FINISHED


def test_no_round_opens_with_fewer_than_a_sum_needs() -> None:
    table = table_of({"ann": {"sst2": 1}, "bob": {"sst2": 2, "qqp": 1}}, min_clients=1)
    assert table.state.phase is Phase.WAITING


def test_a_client_that_leaves_between_stages_is_not_asked_again() -> None:
    table = table_of({name: {"sst2": 10, "qqp": 10} for name in ALL})
    table.answers(*ALL)
    table.apply(Left(table.now, "eve"))
    table.answers("ann", "bob", "cy", "dee")
    assert table.phase == "train"
