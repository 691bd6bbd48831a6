"""What a client says of itself is bounded: rows by what it joined with, weights by a cap, and its share is told."""

from __future__ import annotations

import asyncio
from collections.abc import Mapping
from dataclasses import replace
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from common.config import load_config
from common.errors import ConfigError, Reason, Refused, WireError
from common.orders import JoinRequest, TaskResult
from common.statistics import TaskStatistics
from common.tasks import KNOWN_TASKS, TASK_KINDS, TaskDefinition
from common.wire import methods
from common.wire.limits import MAX_EXAMPLES
from server.core.answer_checks import _check_counts
from server.core.effects import Combine, Fold, Notice
from server.core.events import Answered, Joined, Started
from server.core.facts import RunFacts
from server.core.weighing import step_shares
from server.reporting.report import build_report
from server.reporting.shares import influence_of
from server.reporting.values import to_json
from tests.core_cases import SCORES, Table, rules
from tests.hands import NAMES, Hands


def refused(table: Table, client: str, **changes: Any) -> str:
    """Why an update whose first result is changed does not count; nothing has changed then."""
    header, before = table.header(client), table.state
    results = (replace(header.results[0], **changes), *header.results[1:])
    with pytest.raises(Refused) as refusal:
        table.apply(Answered(0.0, client, replace(header, results=results)))
    assert refusal.value.reason is Reason.MALFORMED and table.state == before
    return refusal.value.message


def test_an_update_counts_no_more_rows_than_its_client_joined_with() -> None:
    table = Table()
    table.join("a", "sst2", examples=30)
    table.join("b", "qqp", examples=30)
    text = "order train-1.1-a: 31 examples of task 'sst2' are more than the 30 that client 'a' joined with"
    assert refused(table, "a", examples=31) == text
    table.answer("a", examples=30)


@pytest.mark.parametrize("field", ["validation", "personal"])
def test_scores_are_of_no_more_rows_than_the_client_joined_with(field: str) -> None:
    table = Table()
    table.join("a", "sst2", validation=9)  # the scores are of 10 rows
    table.join("b", "qqp")
    text = "scores of task 'sst2' are of 10 examples, more than the 9 validation rows that client 'a' joined with"
    found = refused(table, "a", **{"validation": None, "personal": None, field: SCORES["sst2"]})
    assert found == f"order train-1.1-a: {text}"


def test_hidden_words_are_as_many_as_fit_into_the_rows() -> None:
    words = TaskDefinition("words", TASK_KINDS["masked_lm"], (), False, ("masked_accuracy",))
    table = Table(rules(tasks=(words,), schemas={"shared": ("s" * 64, 400)}, max_length=16))
    counts = (("words", 2),)
    table.apply(Joined(0.0, JoinRequest("a", (words,), counts, validation=counts), "token-a"))
    order = table.order("a")
    assert order is not None
    held = table.state.open.orders[order.order_id]  # type: ignore[union-attr]
    member = table.state.clients["a"]
    for examples in (32, 33):
        result = TaskResult("words", 2, 0.5, TaskStatistics(examples, 5.0, 1))
        if examples == 32:
            _check_counts(table.settings, member, held, words, result)
        else:
            with pytest.raises(Refused, match="scores of task 'words' are of 33 examples, more than the 2 validation"):
                _check_counts(table.settings, member, held, words, result)


def test_nobody_joins_with_more_rows_than_sums_stay_exact_for() -> None:
    most = JoinRequest("a", (KNOWN_TASKS["sst2"],), (("sst2", MAX_EXAMPLES),), validation=(("sst2", MAX_EXAMPLES),))
    codec = methods.JOIN.request
    assert codec.decode(codec.encode(most)) == most and MAX_EXAMPLES == 2**29 - 1
    for field in ("examples", "validation"):
        request = replace(most, **{field: (("sst2", MAX_EXAMPLES + 1),)})
        with pytest.raises(WireError, match=f"{field}: 536870912 is not from 0 to 536870911"):
            codec.decode(codec.encode(request))


def totals(sizes: Mapping[str, int], **changes: Any) -> Mapping[str, int]:
    """Each client's weight in what all share, after a round."""
    table = Table(rules(min_clients=len(sizes), clients_per_task=0, **changes))
    for name, size in sizes.items():
        table.join(name, "sst2", examples=size)
    for name, size in sizes.items():
        table.answer(name, examples=size)
    folds = {fold.order_id.rpartition("-")[2]: fold.weights["shared"] for fold in table.of(Fold)}  # type: ignore[attr-defined]
    (stored,) = table.of(Combine)
    assert stored.totals["shared"] == sum(folds.values())  # type: ignore[attr-defined]
    return folds


FIVE = {"a": 100, "b": 100, "c": 100, "d": 100, "e": 1000}


def test_a_cap_holds_a_client_to_so_many_rows() -> None:
    assert totals(FIVE) == FIVE  # 71 % of the mean for one of five
    assert totals(FIVE, max_examples=150) == {**FIVE, "e": 150}
    assert totals(FIVE, max_medians=2.0) == {**FIVE, "e": 200}
    assert totals(FIVE, max_medians=0.5) == dict.fromkeys(FIVE, 50)
    assert totals({"a": 10, "b": 21, "c": 30, "d": 999}, max_medians=1.0) == {"a": 10, "b": 21, "c": 25, "d": 25}
    assert totals({"a": 0, "b": 0, "c": 7}, max_medians=2.0) == {"a": 0, "b": 0, "c": 1}


@settings(max_examples=50, deadline=None)
@given(st.lists(st.integers(1, MAX_EXAMPLES), min_size=3, max_size=9), st.integers(1, 4))
def test_with_a_cap_of_medians_no_minority_gets_the_mean(sizes: list[int], medians: int) -> None:
    found = totals({f"c{i}": size for i, size in enumerate(sizes)}, max_medians=float(medians))
    middle = sorted(sizes)[(len(sizes) - 1) // 2]
    assert max(found.values()) <= medians * max(sizes)
    assert all(isinstance(weight, int) for weight in found.values())
    assert all(found[f"c{i}"] == size for i, size in enumerate(sizes) if size <= middle)


def test_a_cap_stays_what_it_was_when_the_round_opened_also_after_a_restart() -> None:
    table = Table(rules(min_clients=3, clients_per_task=0, max_medians=1.0))
    for name in NAMES:
        table.join(name, "sst2")
    assert table.state.open is not None and table.state.open.caps == {"sst2": 100}
    table.join("b", "sst2", examples=100_000)
    table.join("c", "sst2", examples=100_000)
    assert table.state.open.caps == {"sst2": 100}
    fresh = Table(table.settings)
    for name in NAMES:
        fresh.join(name, "sst2")
    assert fresh.state.open is not None
    fresh.state = replace(fresh.state, open=replace(fresh.state.open, caps={}))
    fresh.apply(Started(5.0))
    assert fresh.state.open.caps == {"sst2": 100}


def test_capped_rows_are_those_of_sums_by_task_too() -> None:
    table = Table(rules(min_clients=2, by_task=True, max_examples=20))
    table.join("a", "sst2", "qqp")
    table.join("b", "qqp")
    table.answer("a", examples=50)
    table.answer("b", examples=10)
    folds = {fold.order_id: fold for fold in table.of(Fold)}
    assert folds["train-1.1-a"].rows == {"shared": {"sst2": 20, "qqp": 20}}  # type: ignore[attr-defined]
    (stored,) = table.of(Combine)
    assert stored.rows == {"shared": {"sst2": 20, "qqp": 30}}  # type: ignore[attr-defined]


def test_what_is_above_a_cap_counts_in_no_mean_loss_either() -> None:
    table = Table(rules(min_clients=2, clients_per_task=0, max_examples=10))
    for name, examples in (("a", 10), ("b", 1000)):
        table.join(name, "sst2", examples=examples)
    for name, examples, loss in (("a", 10, 1.0), ("b", 1000, 3.0)):
        header = table.header(name, examples)
        results = tuple(replace(result, train_loss=loss) for result in header.results)
        table.apply(Answered(0.0, name, replace(header, results=results)))
    assert table.state.losses == {"sst2": 2.0}


def test_shares_of_a_step_are_told_by_scope_and_by_task() -> None:
    for by_task in (False, True):
        table = Table(rules(min_clients=2, by_task=by_task, num_rounds=1))
        table.join("a", "sst2", "qqp")
        table.join("b", "qqp")
        table.answer("a", examples=30)
        round_ = table.state.open
        assert round_ is not None
        table.answer("b", examples=10)
        closed = table.effects[[type(e) for e in table.effects].index(Combine)]
        (record,) = [r for e in table.effects for r in getattr(e, "records", ()) if type(r).__name__ == "RoundClosed"]
        found = step_shares(table.settings, record.round, closed.totals)  # type: ignore[attr-defined]
        heads = {"task/qqp": {"a": 0.75, "b": 0.25}, "task/sst2": {"a": 1.0}}
        shared = {"shared": {"a": 60 / 70, "b": 10 / 70}}
        parts = {"shared (qqp)": heads["task/qqp"], "shared (sst2)": heads["task/sst2"]}
        assert found == heads | (parts if by_task else shared)
        (line,) = [e.text for e in table.of(Notice) if "closed with" in e.text]  # type: ignore[attr-defined]
        assert line.endswith(f"; largest share of a step: a {'75% of task/qqp' if by_task else '86% of shared'}")


def test_the_report_states_the_clients_shares() -> None:
    async def play() -> dict[str, Any]:
        hands = Hands("aggregation.max_examples=2x")
        for name, rows in zip(NAMES, (40, 40, 400), strict=True):
            await hands.join(name, rows)
        await hands.round(dict.fromkeys(NAMES, 1e-3))
        coordinator, journal = hands.coordinator, hands.coordinator.journal
        held = journal.rounds(), journal.clients()
        influence = influence_of(coordinator.settings, held[0], journal.totals())
        return to_json(build_report(RunFacts(), 0, coordinator.settings.tasks, *held, "", "", influence=influence))

    report = asyncio.run(play())
    (entry,) = report["step_shares"]
    assert entry["round"] == 1 and set(entry["scopes"]) == {"shared", "task/a0", "task/b1"}
    assert entry["scopes"]["shared"] == {"clients": 3, "largest": {"client": "c", "share": 0.5}}
    assert report["clients"]["a"]["step_shares"] == dict.fromkeys(("shared", "task/a0", "task/b1"), 0.25)


@pytest.mark.parametrize("value", ["1000", "2x", "0.5x", "null"])
def test_a_cap_is_a_number_of_rows_or_a_multiple_of_the_median(value: str) -> None:
    section = load_config(None, ["tasks={sst2: {}}", f"aggregation.max_examples={value}"]).aggregation
    expected = {"1000": (1000, None), "2x": (None, 2.0), "0.5x": (None, 0.5), "null": (None, None)}
    assert (section.most_examples, section.most_medians) == expected[value]


@pytest.mark.parametrize("value", ["0", "-3", "0x", "2 x", "x", "1.5", "true", "1e3x"])
def test_no_other_cap_is_taken(value: str) -> None:
    with pytest.raises(ConfigError, match=r"aggregation\.max_examples: .*; write e\.g\. 1000 or 2x"):
        load_config(None, ["tasks={sst2: {}}", f"aggregation.max_examples={value}"])


def test_a_cap_that_nothing_reads_is_refused() -> None:
    with pytest.raises(ConfigError, match=r"aggregation\.max_examples: not read by weights uniform"):
        load_config(None, ["tasks={sst2: {}}", "aggregation.max_examples=2x", "aggregation.weights=uniform"])
