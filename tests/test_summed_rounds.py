"""What the journal and the report have of rounds whose answers entered sums."""

import json
import shutil
from collections.abc import Sequence
from pathlib import Path

from common.bodies import RING, ScopeVersion
from common.orders import TaskResult
from server.core.effects import PhaseClosed, Record, RoundClosed, RoundOpened
from server.core.facts import RunFacts
from server.core.open_round import OpenOrder, OpenRound, OrderState, order_id
from server.core.phases import EVALUATE, KEYS, SHARES, TRAIN, UNMASK, RoundPhase
from server.core.sum_facts import RoundSums
from server.reporting.history import scores_of
from server.reporting.report import build_report, client_scores, round_scores
from server.reporting.shares import influence_of
from server.reporting.values import to_json
from server.storage.journal import Journal
from tests.core_cases import RULES, SCHEMAS, SCORES, TASKS

CLIENTS = ("a", "b", "c")
WEIGHTS = {"shared": 300, "shared (sst2)": 120, "task/sst2": 120}


def round_of(
    phase: RoundPhase, number: int, attempt: int = 1, version: int | None = None, sums: RoundSums | None = None
) -> OpenRound:
    """A phase that everybody has answered."""
    orders = {}
    for client in CLIENTS:
        name = order_id(phase, number, attempt, client)
        scopes = (ScopeVersion("shared", number - 1),)
        orders[name] = OpenOrder(name, client, ("sst2",), scopes, OrderState.ACCEPTED, "d" * 32, codec=RING)
    return OpenRound(number, attempt, phase, number - 1 if version is None else version, 0.0, orders, sums=sums)


def sums_with(loss: float | None) -> RoundSums:
    return RoundSums((TaskResult("sst2", 120, loss, SCORES["sst2"]),), WEIGHTS)


def trained(number: int, loss: float, attempt: int = 1) -> list[Record]:
    """The records that close a round whose sums said so."""
    stages = [PhaseClosed(round_of(stage, number, attempt)) for stage in (KEYS, SHARES, UNMASK)]
    main = round_of(TRAIN, number, attempt, sums=sums_with(loss))
    return [*stages, RoundClosed(main, {"shared": 300}, number)]


def journal_of(*commits: Sequence[Record], path: Path | None = None) -> Journal:
    journal = Journal(":memory:" if path is None else path)
    for records in commits:
        journal.commit(records)
    return journal


def test_sums_come_back_with_their_rounds_also_from_the_log(tmp_path: Path) -> None:
    closed = [*trained(1, 0.5), *trained(2, 0.25), RoundClosed(round_of(EVALUATE, 2, 1, 2, sums_with(None)), {}, None)]
    journal = journal_of(closed, path=tmp_path / "journal.sqlite")
    wanted = [record.round for record in closed if isinstance(record, PhaseClosed | RoundClosed)]
    assert journal.rounds() == wanted
    assert journal.scored_rounds() == [found for found in wanted if not found.phase.is_stage]
    assert journal.facts() == RunFacts()
    journal.close()
    for name in ("journal.sqlite", "journal.sqlite-wal"):
        (tmp_path / name).unlink(missing_ok=True)
    mended = Journal(tmp_path / "journal.sqlite")
    assert mended.rounds() == wanted
    mended.close()


def test_losses_and_trends_are_those_of_the_sums() -> None:
    abandoned = RoundClosed(round_of(TRAIN, 1, sums=RoundSums()), {}, None)
    state = journal_of([abandoned], trained(1, 0.5, 2), trained(2, 0.25)).restore(SCHEMAS, 60.0)
    assert state.losses == {"sst2": 0.25} and state.trends == ({}, {"sst2": 0.5})


def test_going_back_forgets_the_sums_of_later_rounds() -> None:
    journal = journal_of(*(trained(number, 1.0 / number) for number in range(1, 12)))
    journal.go_back(2)
    assert journal.restore(SCHEMAS, 60.0).losses == {"sst2": 0.5}
    journal.commit([RoundClosed(round_of(TRAIN, 10), {"shared": 1}, 10)])
    assert [(found.number, found.sums is None) for found in journal.rounds() if not found.phase.is_stage] == [
        (1, False),
        (2, False),
        (10, True),
    ]


def test_a_restart_goes_on_in_the_stage_that_was_open(tmp_path: Path) -> None:
    past = [round_of(phase, 2) for phase in (KEYS, SHARES, TRAIN)]
    journal = journal_of(trained(1, 0.5), path=tmp_path / "journal.sqlite")
    for before, after in zip(past, [*past[1:], round_of(UNMASK, 2)], strict=True):
        journal.commit([PhaseClosed(before), RoundOpened(after)])
    shutil.copytree(tmp_path, tmp_path.parent / f"{tmp_path.name}-killed")
    journal.close()
    again = Journal(tmp_path.parent / f"{tmp_path.name}-killed" / "journal.sqlite")
    open_ = again.restore(SCHEMAS, 60.0).open
    again.close()
    assert open_ is not None and open_.phase is UNMASK and open_.deadline == 60.0
    assert open_.count(OrderState.ISSUED) == len(CLIENTS) and open_.earlier == tuple(past)


def test_pooled_scores_are_those_of_the_sum_and_nobody_has_own_ones() -> None:
    rounds = [round_of(TRAIN, 1, sums=sums_with(0.5)), round_of(EVALUATE, 1, 1, 1, sums_with(None))]
    scores = round_scores(TASKS, rounds[0])
    assert scores.keys() == {"sst2"}
    found = scores["sst2"]
    assert found.scores["accuracy"] == 0.7 and found.validation_examples == 10
    assert found.local_training_loss_next_round == 0.5
    assert found.clients is None and found.personal is None  # sums do not tell how many had such rows
    assert client_scores(TASKS, rounds) == {}
    assert {(row.version, row.client) for row in scores_of(TASKS, rounds, {})} == {(0, ""), (1, "")}


def test_a_report_of_summed_rounds() -> None:
    records = [*trained(1, 0.5), RoundClosed(round_of(EVALUATE, 1, 1, 1, sums_with(None)), {}, None)]
    journal = journal_of(records)
    rounds, facts = journal.rounds(), journal.facts()
    influence = influence_of(RULES, rounds, journal.totals())
    built = build_report(facts, 1, TASKS, rounds, [], "finished", "d" * 64, influence=influence)
    task = json.loads(json.dumps(to_json(built), allow_nan=False))["tasks"]["sst2"]
    assert task["rounds_trained"] == 1 and task["metrics"]["accuracy"] == 0.7
    assert [entry["round"] for entry in task["history"]] == [0, 1]
