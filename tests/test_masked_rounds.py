"""Rounds whose answers enter sums: their stages, and what the coordinator ever sees."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

from common.errors import Reason, Refused
from common.orders import Order, Reply, UpdateHeader, UpdateState
from common.secure.ring import means
from common.statistics import merge
from server.core.answers import describe, update_state_of
from server.core.effects import (
    AddToSums,
    Commit,
    OpenSums,
    PhaseClosed,
    RoundClosed,
    RoundOpened,
)
from server.core.events import Answered
from server.core.phases import Phase
from tests.core_cases import SCORES
from tests.masked_cases import ALL, FIVE, MaskedTable, combined, delta_of, masked_rules, table_of, trained


def asked_to_train(name: str) -> tuple[MaskedTable, Order]:
    """A round whose keys and shares are there, and a client's order in it."""
    table = table_of()
    table.answers(*ALL)
    table.answers(*ALL)
    order = table.order(name)
    assert order is not None
    return table, order


def test_a_round_has_four_stages_and_publishes_the_sums() -> None:
    table = table_of()
    phases = []
    for _ in range(4):
        phases.append(table.phase)
        table.answers(*ALL)
    assert phases == ["keys", "shares", "train", "unmask"]
    assert table.state.completed_rounds == 1
    # By row: 10 + 20, 30, 50 + 5, 7 + 9, 100.
    assert combined(table).totals == {"shared": 231, "task/qqp": 134, "task/sst2": 97}


def test_a_status_says_that_there_are_sums_and_which_stage_is_open() -> None:
    table, said = table_of(), []
    for _ in range(4):
        said.append(describe(table.settings, table.state, "run").phase)
        table.answers(*ALL)
    found = ["training, keys", "training, shares", "training", "training, unmask"]
    assert said == [f"{phase}, in sums over at least 3 clients" for phase in found]


def test_circles_are_cells_with_the_same_members() -> None:
    table = table_of()
    order = table.order("ann")
    assert order is not None
    found = [([cell.name for cell in c.cells], c.tasks, c.members) for c in order.body.circles]
    assert found == [(["task/qqp"], ("qqp",), 4), (["task/sst2"], ("sst2",), 4), (["shared"], (), 5)]


def test_the_sums_are_those_of_the_plain_vectors() -> None:
    table = trained(table_of())
    table.answers(*ALL)
    circles = {cell.name: stand for stand, cell in cells_of(table)}
    for scope, size, clients in (("shared", 100, ALL), ("task/sst2", 10, ("ann", "bob", "cy", "dee"))):
        circle = circles[scope]
        total = table.opened[circle.name][scope]
        assert np.array_equal(total, table.plain_sum(circle.name, scope, *clients))
        weights = {name: sum(FIVE[name].values()) if scope == "shared" else FIVE[name]["sst2"] for name in clients}
        exact = sum(delta_of(name, scope, size).astype(np.float64) * weights[name] for name in clients)
        found = means(total.view(np.uint32), circle.bits, sum(weights.values()))
        worst = len(clients) * 2.0 ** -(circle.bits + 1) / sum(weights.values())
        assert np.abs(found - exact / sum(weights.values())).max() <= worst


def cells_of(table: MaskedTable):
    asked = table.of(OpenSums)[0]
    assert isinstance(asked, OpenSums)
    return [(closed.layout.circle, cell) for closed in asked.circles for cell in closed.layout.circle.cells]


def test_scores_losses_and_rows_are_read_from_sums_alone() -> None:
    table = trained(table_of())
    table.answers(*ALL)
    closed = next(r for c in table.of(Commit) for r in c.records if isinstance(r, RoundClosed))
    assert all(order.results == () and order.seconds == 0.0 for order in closed.round.orders.values())
    results = {result.task: result for result in closed.round.results}
    assert results["sst2"].examples == 97
    assert results["qqp"].examples == 134
    assert results["sst2"].train_loss == pytest.approx(0.5, abs=1e-6)
    pooled = merge([SCORES["sst2"]] * 4)
    assert results["sst2"].validation is not None
    assert results["sst2"].validation.labels == pooled.labels
    assert results["sst2"].validation.right == pooled.right
    assert table.state.losses == pytest.approx({"sst2": 0.5, "qqp": 0.5}, abs=1e-6)


def test_without_masks_the_same_sums_come_in_one_phase() -> None:
    plain, masked = table_of(masks=False), trained(table_of())
    assert plain.phase == "train"
    plain.answers(*ALL)
    masked.answers(*ALL)
    assert combined(plain) == combined(masked)
    for circle, cells in masked.opened.items():
        for name, cell in cells.items():
            assert np.array_equal(cell, plain.opened[circle][name])


def test_what_is_handed_in_is_not_what_was_computed() -> None:
    table = trained(table_of())
    for member in table.members.values():
        for circle, cells in member.cells.items():
            for name, cell in cells.items():
                assert not np.array_equal(cell, member.plain[circle][name])


def test_sums_are_stored_before_anybody_hears_who_is_in_them() -> None:
    table = table_of()
    table.answers(*ALL)
    table.answers(*ALL)
    *most, last = ALL
    table.answers(*most)
    order = table.order(last)
    assert order is not None
    effects = table.apply(Answered(table.now, last, table.members[last].answer(order).head))
    kinds = [type(effect).__name__ for effect in effects if not isinstance(effect, AddToSums)]
    assert kinds[:2] == ["StoreSums", "Commit"]
    records = next(effect.records for effect in effects if isinstance(effect, Commit))
    assert [type(record).__name__ for record in records][:2] == ["PhaseClosed", "RoundOpened"]


def test_an_update_waits_as_open_while_its_sum_is_opened_and_is_settled_with_the_version() -> None:
    table, order = asked_to_train("ann")
    table.answers(*ALL)
    assert table.phase == "unmask"
    assert update_state_of(table.state, table.state.clients["ann"], order.order_id) is UpdateState.OPEN
    table.answers(*ALL)
    assert update_state_of(table.state, table.state.clients["ann"], order.order_id) is UpdateState.COMMITTED


def test_an_update_that_comes_again_while_its_sum_is_opened_counts_once() -> None:
    table, order = asked_to_train("ann")
    update = table.members["ann"].answer(order).head
    table.apply(Answered(table.now, "ann", update))
    table.answers(*(name for name in ALL if name != "ann"))
    before = len(table.of(AddToSums))
    table.apply(Answered(table.now, "ann", update))
    assert len(table.of(AddToSums)) == before
    assert isinstance(update, UpdateHeader)
    with pytest.raises(Refused) as refusal:
        table.apply(Answered(table.now, "ann", replace(update, digest="e" * 32)))
    assert refusal.value.reason is Reason.DIFFERENT_UPDATE


def test_what_stages_brought_is_forgotten_with_the_round() -> None:
    table = trained(table_of())
    table.answers(*ALL)
    last = next(c for c in table.of(Commit) if any(isinstance(r, RoundClosed) for r in c.records))
    stages = [r.round for r in last.records if isinstance(r, PhaseClosed)]
    assert [stage.phase.name for stage in stages] == ["keys", "shares", "unmask"]
    assert all(order.content is None for stage in stages for order in stage.orders.values())
    opened = [r.round for c in table.of(Commit) for r in c.records if isinstance(r, PhaseClosed | RoundOpened)]
    shares = [o.content for r in opened if r.phase.name == "unmask" for o in r.orders.values()]
    assert set(shares) == {None}


def test_the_last_version_is_scored_in_sums() -> None:
    table = trained(table_of())
    table.answers(*ALL)
    phases = []
    while table.state.phase is not Phase.FINISHED:
        phases.append(table.phase)
        table.answers(*ALL)
    assert phases == ["scorekeys", "scoreshares", "evaluate", "scoreunmask"]
    closed = [r.round for c in table.of(Commit) for r in c.records if isinstance(r, RoundClosed)]
    assert [round_.phase.name for round_ in closed] == ["train", "evaluate"]
    scored = {result.task: result.validation for result in closed[-1].results}
    assert scored["qqp"] is not None
    assert scored["qqp"].labels == merge([SCORES["qqp"]] * 4).labels


def test_an_answer_that_tells_more_than_its_sum_is_refused() -> None:
    table, order = asked_to_train("ann")
    update = table.members["ann"].answer(order).head
    assert isinstance(update, UpdateHeader)
    results = tuple(table.members["ann"].results(order).values())
    bad = (
        replace(update, results=results),
        replace(update, codec="dense-float32"),
        replace(update, scopes=update.scopes[:-1]),
        replace(update, scopes=(replace(update.scopes[0], nbytes=8), *update.scopes[1:])),
        Reply(order.order_id, (), 0.0),
    )
    for answer in bad:
        with pytest.raises(Refused):
            table.apply(Answered(table.now, "ann", answer))


def test_a_key_that_another_client_has_announced_is_refused() -> None:
    table = table_of()
    order, other = table.order("ann"), table.order("cy")
    assert order is not None
    assert other is not None
    mine = table.members["ann"].answer(order)
    table.apply(Answered(table.now, "ann", mine.head))
    theirs = table.members["cy"].answer(other)
    assert isinstance(mine, Reply)
    assert isinstance(theirs, Reply)
    stolen = [(name, replace(said, member="cy")) for name, said in mine.content.circles]
    with pytest.raises(Refused, match="comes twice"):
        content = replace(theirs.content, circles=tuple(stolen))
        table.apply(Answered(table.now, "cy", replace(theirs, content=content)))


def test_pinned_identities_add_a_stage_and_other_signatures_are_refused() -> None:
    table = table_of(pinned=True)
    phases = []
    while table.state.completed_rounds == 0:
        phases.append(table.phase)
        table.answers(*ALL)
    assert phases == ["keys", "shares", "train", "confirm", "unmask"]
    table = table_of(pinned=True)
    table.members["ann"].name = "bob"
    order = table.order("ann")
    assert order is not None
    with pytest.raises(Refused):
        table.apply(Answered(table.now, "ann", table.members["ann"].answer(order).head))


def test_sums_by_task_have_a_cell_for_each_task() -> None:
    table = table_of({name: {"sst2": 10, "qqp": 20} for name in ("ann", "bob", "cy")}, by_task=True)
    for _ in range(4):
        table.answers("ann", "bob", "cy")
    assert combined(table).rows == {"shared": {"sst2": 30, "qqp": 60}}
    assert combined(table).totals == {"shared": 90, "task/qqp": 60, "task/sst2": 30}


def test_weights_of_tasks_multiply_rows() -> None:
    tasks = tuple(replace(task, weight=0.5 if task.name == "qqp" else 1.0) for task in masked_rules().tasks)
    table = table_of({name: {"sst2": 10, "qqp": 20} for name in ("ann", "bob", "cy")}, tasks=tasks)
    for _ in range(4):
        table.answers("ann", "bob", "cy")
    assert combined(table).totals == {"shared": 3 * (2 * 10 + 20), "task/qqp": 60, "task/sst2": 30}
