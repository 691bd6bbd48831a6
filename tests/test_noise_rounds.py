"""Rounds under noise of the coordinator: which cells move, whom a release is charged to, and when nothing is left."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from math import sqrt
from typing import Any

import pytest

from common.orders import UpdateHeader
from common.privacy.accounting import Mechanism, releases_within
from server.core.answers import describe
from server.core.effects import Combine, Commit, Notice, RoundClosed, RunEnded
from server.core.events import Left, RolledBack, Seen, Started, Tick
from server.core.opening import waits_for
from server.core.phases import Phase
from server.core.privacy import cells_of, comes_up, is_rolled_back
from server.core.privacy_facts import Charges, Ledger, NoiseRules
from server.core.state import FederationState
from tests.core_cases import Table, rules

Z4 = Mechanism(4.0)


class Noised(Table):
    """A coordinator's core with a ledger."""

    def __init__(self, noise: NoiseRules, ledger: Ledger, **changes: object) -> None:
        self.ledger = ledger
        super().__init__(rules(noise=noise, one_each=True, **changes))

    def apply(self, event: Any) -> Any:
        if isinstance(event, Started) and self.state.ledger is None:
            self.state = FederationState(self.state.versions, ledger=self.ledger)
        return super().apply(event)

    def header(self, client: str, examples: int = 100, digest: str = "d" * 32) -> Any:
        """An update holds what its client trained."""
        found, order = super().header(client, examples, digest), self.order(client)
        if not isinstance(found, UpdateHeader) or order is None or self.state.open is None:
            return found
        untrained = self.state.open.orders[order.order_id].untrained
        return replace(found, scopes=tuple(scope for scope in found.scopes if scope.scope not in untrained))

    def round(self, *clients: str) -> None:
        for client in clients:
            self.answer(client)

    def wait(self, until: float) -> None:
        """Time passes, and everybody keeps a call open."""
        self.now = until
        self.apply(Tick(until, frozenset(self.state.clients)))

    @property
    def combined(self) -> Combine:
        found = self.of(Combine)[-1]
        assert isinstance(found, Combine)
        return found

    def committed(self, kind: type) -> list[list[object]]:
        """The records of every commit that has one of this kind."""
        commits = [effect.records for effect in self.of(Commit) if isinstance(effect, Commit)]
        return [list(records) for records in commits if any(isinstance(record, kind) for record in records)]


def ledger_of(table: Noised) -> Ledger:
    assert table.state.ledger is not None
    return table.state.ledger


def table_of(clients: Mapping[str, tuple[str, ...]], ledger: Ledger, least: int = 2, **changes: object) -> Noised:
    noise = NoiseRules(min_clients=least, coin=changes.pop("coin", b""), fraction=changes.pop("fraction", 1.0))  # type: ignore[arg-type]
    table = Noised(noise, ledger, min_clients=len(clients), **changes)
    for name, tasks in clients.items():
        table.join(name, *tasks)
    return table


BOTH = ("qqp", "sst2")
THREE = {"a": ("sst2",), "b": ("sst2",), "c": ("qqp",)}


def test_a_cell_of_too_few_clients_is_not_trained_and_keeps_its_version() -> None:
    table = table_of(THREE, Ledger(Z4, 1e-5, 1.0))
    assert ledger_of(table).open == ("shared", "task/sst2")
    order = table.order("c")
    assert order is not None and table.state.open is not None
    assert table.state.open.orders[order.order_id].untrained == {"task/qqp"}
    for name in "ab":
        table.answer(name)
    assert ledger_of(table).cells == {"shared": 3.0, "task/sst2": 2.0}


def test_what_sums_are_divided_by_stays_whoever_answers_or_joins() -> None:
    table = table_of(THREE, Ledger(Z4, 1e-5, 1.0), least=1, num_rounds=3)
    table.join("d", "qqp")
    for name in "ab":
        table.answer(name)
    table.wait(2000.0)  # c and d are late
    assert table.combined.noise is not None
    assert table.combined.noise.cells == {"shared": 3.0, "task/sst2": 2.0}


def test_the_parts_of_a_client_in_sums_by_task_are_together_one() -> None:
    table = table_of({"a": ("sst2", "qqp"), "b": ("sst2", "qqp")}, Ledger(Z4, 1e-5, 1.0), by_task=True)
    found = cells_of(table.settings, table.state.clients["a"])
    assert found == {"shared (qqp)": 1 / sqrt(2), "shared (sst2)": 1 / sqrt(2), "task/qqp": 1.0, "task/sst2": 1.0}
    table.round("a", "b")
    assert table.combined.noise is not None
    assert table.combined.noise.cells["shared (qqp)"] == pytest.approx(sqrt(2))
    assert table.combined.rows == {"shared": {"sst2": 1, "qqp": 1}}


def test_of_sums_by_task_those_of_too_few_clients_are_left_out() -> None:
    table = table_of(THREE, Ledger(Z4, 1e-5, 1.0), by_task=True)
    assert ledger_of(table).open == ("shared (sst2)", "task/sst2")
    assert table.order("c") is None  # there is nothing that it could move
    table.round("a", "b")
    assert table.combined.rows == {"shared": {"sst2": 1}}


def test_a_release_and_its_charge_are_one_commit_and_an_abandoned_round_costs_nothing() -> None:
    table = table_of(THREE, Ledger(Z4, 1e-5, 1.0), least=1, num_rounds=2)
    table.wait(2000.0)  # nobody answered: the round is abandoned and begins again
    assert ledger_of(table).releases == 0 and table.state.attempt == 2
    table.round("a", "b", "c")
    (published,) = [r for r in table.committed(RoundClosed) if any(getattr(x, "published", None) for x in r)]
    assert sum(isinstance(record, Ledger) for record in published) == 2  # the charge, and the cells of the next round
    assert ledger_of(table).spent == {"a": 1, "b": 1, "c": 1}
    assert [e.text for e in table.of(Notice) if "epsilon" in e.text] == [
        "privacy: epsilon is at most 0.926 (delta 1e-05) after 1 releases"
    ]


def test_a_budget_of_eight_lasts_for_44_rounds_and_then_the_run_ends() -> None:
    limit = releases_within(8.0, 1e-5, Z4)
    assert limit == 44
    table = table_of(THREE, Ledger(Z4, 1e-5, 1.0, limit=limit), least=1, num_rounds=100)
    for _ in range(44):
        assert table.state.phase is Phase.TRAINING
        table.round("a", "b", "c")
    assert table.state.phase is Phase.EVALUATING and table.state.completed_rounds == 44
    table.round("a", "b", "c")
    assert table.state.phase is Phase.FINISHED
    assert table.state.reason == "the privacy budget is spent after 44 releases"
    table.apply(Started(0.0))  # as a resumed run does, with rounds left
    assert table.state.phase is Phase.FINISHED


def test_a_client_at_its_limit_is_not_asked_and_cells_without_enough_others_stand_still() -> None:
    earlier = (Charges(Z4, {"a": 43}),)
    ledger = Ledger(Z4, 1e-5, 1.0, limit=44, limits={"a": 1}, earlier=earlier)
    table = table_of({**THREE, "d": ("qqp",)}, ledger, num_rounds=5)
    table.round("a", "b", "c", "d")
    assert table.order("a") is None and table.order("b") is not None
    assert ledger_of(table).open == ("shared", "task/qqp")  # b is alone with sst2
    table.round("b", "c", "d")
    assert table.state.completed_rounds == 2 and ledger_of(table).spent == {"a": 1, "b": 2, "c": 2, "d": 2}


def test_too_few_clients_for_any_cell_are_waited_for_and_named_in_the_reason() -> None:
    table = table_of(THREE, Ledger(Z4, 1e-5, 1.0), least=9)
    assert table.state.phase is Phase.WAITING
    table.wait(601.0)
    assert table.state.phase is Phase.FAILED
    assert table.state.reason.startswith("no scope has 9 clients within their budget (privacy.min_clients)")


class TestCoins:
    def test_each_client_comes_up_by_its_own_coin_whatever_its_tasks(self) -> None:
        key, rounds, chance = b"k" * 32, 4000, 0.3
        found = [sum(comes_up(key, number, name, chance) for number in range(rounds)) for name in ("a", "b", "ward-3")]
        squares = sum((count - rounds * chance) ** 2 / (rounds * chance * (1 - chance)) for count in found)
        assert squares < 16.3  # chi-square with 3 degrees of freedom, 0.1 %
        both = sum(comes_up(key, n, "a", chance) and comes_up(key, n, "b", chance) for n in range(rounds))
        assert abs(both - rounds * chance**2) < 4 * sqrt(rounds * chance**2)

    def test_an_attempt_that_failed_asks_the_same_clients_again(self) -> None:
        names = {f"c{i}": BOTH for i in range(8)}
        table = table_of(names, Ledger(Mechanism(4.0, 0.5), 1e-5, 1.0), coin=b"k" * 32, fraction=0.5, num_rounds=4)
        asked = [name for name in names if table.order(name) is not None]
        assert asked == [name for name in names if comes_up(b"k" * 32, 1, name, 0.5)] and 0 < len(asked) < 8
        table.wait(2000.0)
        assert table.state.attempt == 2 and [name for name in names if table.order(name) is not None] == asked

    def test_a_round_of_nobody_releases_noise_and_everybody_is_charged(self) -> None:
        names = {"a": BOTH, "b": BOTH}
        key = next(k for k in (bytes([i]) * 32 for i in range(99)) if not any(comes_up(k, 1, n, 0.5) for n in names))
        table = table_of(names, Ledger(Mechanism(4.0, 0.5), 1e-5, 1.0), coin=key, fraction=0.5, num_rounds=4)
        table.wait(1.0)
        assert table.combined.totals == {"shared": 1, "task/qqp": 1, "task/sst2": 1}
        assert ledger_of(table).spent["a"] >= 1 and ledger_of(table).spent["b"] >= 1
        assert ledger_of(table).cells == dict.fromkeys(table.combined.totals, 1.0)  # half of two clients

    def test_nobody_learns_who_is_asked_nor_how_many(self) -> None:
        names = {f"c{i}": BOTH for i in range(8)}
        table = table_of(names, Ledger(Mechanism(4.0, 0.5), 1e-5, 1.0), coin=b"k" * 32, fraction=0.5)
        assert waits_for(table.settings, table.state) == "the round to close"
        asked = next(name for name in names if table.order(name) is not None)
        table.apply(Seen(1.0, asked, "training 50%"))
        assert {client.activity for client in describe(table.settings, table.state, "run").clients} == {""}

    def test_a_client_that_leaves_after_its_update_is_charged_all_the_same(self) -> None:
        names = {f"c{i}": BOTH for i in range(8)}
        table = table_of(names, Ledger(Mechanism(4.0, 0.5), 1e-5, 1.0), coin=b"k" * 32, fraction=0.5, num_rounds=4)
        first, *others = [name for name in names if table.order(name) is not None]
        table.answer(first)
        table.apply(Left(0.0, first))
        table.round(*others)
        assert ledger_of(table).spent == dict.fromkeys(sorted(names), 1)


class TestRollback:
    def test_an_order_of_a_round_that_the_ledger_does_not_know_ends_the_run(self) -> None:
        table = table_of(THREE, Ledger(Z4, 1e-5, 1.0, releases=3))
        assert not is_rolled_back(table.state, "") and not is_rolled_back(table.state, "train-4.1-a")
        assert not is_rolled_back(table.state, "no order at all")
        assert is_rolled_back(table.state, "train-5.2-ward-3-x")
        effects = table.apply(RolledBack(1.0, "a", "train-5.1-a"))
        assert table.state.phase is Phase.FAILED and any(isinstance(effect, Commit) for effect in effects)
        assert "the ledger knows 3 releases, and client a brought train-5.1-a" in table.state.reason
        assert [type(r) for r in table.committed(RunEnded)[0]] == [RunEnded]

    def test_without_noise_nothing_is_rolled_back(self) -> None:
        table = Table()
        assert not is_rolled_back(table.state, "train-9.1-a")
