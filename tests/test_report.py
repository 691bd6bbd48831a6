import json
from dataclasses import replace

import pytest

from common.errors import Reason
from common.orders import TaskResult
from common.statistics import TaskStatistics
from server.core.effects import Commit
from server.core.events import Answered, Left, OrderFailed, Seen, UpdateRefused
from server.core.facts import RunBegan, RunConfiguration, Traffic
from server.core.sum_facts import RoundSums
from server.reporting.report import build_report
from server.reporting.values import Report, from_json, to_json
from server.storage.journal import Journal
from tests.core_cases import RULES, TASKS, Table, rules

BEGAN = RunBegan("run", "demo", 0, "random")
TRAFFIC = Traffic(10, 20, 1.5)


def report_of(table):
    journal = Journal(":memory:")
    for effect in table.of(Commit):
        journal.commit((BEGAN, *effect.records, TRAFFIC))
    report = to_json(
        build_report(
            journal.facts(),
            table.state.completed_rounds,
            TASKS,
            journal.rounds(),
            journal.clients(),
            table.state.phase.value,
            "d" * 64,
        )
    )
    journal.close()
    return json.loads(json.dumps(report, allow_nan=False))


def answer(table, client, right, loss=0.5):
    """An update whose received model was right on `right` of 10 rows of each of its tasks."""
    scores = TaskStatistics(10, 20.0 - 2 * right, right, (right, right, 10, 0, 10 - right, 0))
    header = table.header(client)
    results = tuple(replace(result, validation=scores, train_loss=loss) for result in header.results)
    table.apply(Answered(table.now, client, replace(header, results=results)))


@pytest.fixture
def finished():
    table = Table()
    table.join("a", "sst2", examples=100)
    table.join("ab", "sst2", "qqp", examples=300)
    for version, (a, ab) in enumerate([(5, 5), (6, 8), (9, 7)]):
        loss = 0.25 if version < 2 else None
        answer(table, "a", a, loss)
        answer(table, "ab", ab, loss)
    return table


def test_a_finished_run_reports_what_is_promised(finished):
    report = report_of(finished)
    promised = {
        "run": "demo",
        "status": "finished",
        "rounds_completed": 2,
        "seconds": 1.5,
        "encoder_init": "random",
        "model_digest": "d" * 64,
        "bytes_down": 10,
        "bytes_up": 20,
    }
    assert {name: report[name] for name in promised} == promised
    assert set(report["tasks"]) == {"sst2", "qqp"} and set(report["clients"]) == {"a", "ab"}
    sst2, qqp = report["tasks"]["sst2"], report["tasks"]["qqp"]
    assert (sst2["clients"], sst2["examples"]) == (["a", "ab"], 400)
    assert (qqp["clients"], qqp["examples"]) == (["ab"], 300)
    expected = {"tasks": ["qqp", "sst2"], "rounds": 3, "refused": 0, "failed": 0}
    assert {name: report["clients"]["ab"][name] for name in expected} == expected


def test_the_file_has_the_keys_that_are_documented_and_is_read_as_it_was_written(finished):
    report = report_of(finished)
    qqp = report["tasks"]["qqp"]
    assert " ".join(report) == (
        "run run_id status reason rounds_completed seconds seed data encoder_init sharing_plan training aggregation "
        "guard model_digest bytes_down bytes_up uploads task_cosines step_shares relation relations tasks clients "
        "personalisation certificates best blend"
    )
    assert report["uploads"] == {"dense-float32": {"updates": 4, "bytes": 1840}}
    assert " ".join(qqp) == "type auxiliary metrics scored_round history clients examples rounds_trained"
    scores = {"f1": 0.0, "accuracy": 0.7, "loss": 0.6}
    assert qqp["history"][-1] == {"round": 2, **scores, "validation_examples": 10, "clients": 1}
    assert report["clients"]["ab"] == {
        "tasks": ["qqp", "sst2"],
        "trains": "all",
        "layers": None,
        "lacks": [],
        "examples": {"sst2": 300, "qqp": 300},
        **{"rounds": 3, "bytes": 960, "assigned": 3, "refused": 0, "failed": 0, "expired": 0},
        "scores": {"qqp": {"round": 2, **scores}, "sst2": {"round": 2, **scores}},
        "step_shares": {},
    }
    assert to_json(from_json(Report, report)) == report


def test_the_history_scores_every_published_model(finished):
    tasks = report_of(finished)["tasks"]
    assert [(entry["round"], entry["accuracy"]) for entry in tasks["sst2"]["history"]] == [(0, 0.5), (1, 0.7), (2, 0.8)]
    assert [(entry["round"], entry["accuracy"]) for entry in tasks["qqp"]["history"]] == [(0, 0.5), (1, 0.8), (2, 0.7)]
    assert tasks["sst2"]["metrics"]["accuracy"] == 0.8 and tasks["sst2"]["metrics"]["loss"] == 0.4
    assert tasks["sst2"]["scored_round"] == 2
    assert [entry["validation_examples"] for entry in tasks["sst2"]["history"]] == [20] * 3
    losses = [entry.get("local_training_loss_next_round") for entry in tasks["sst2"]["history"]]
    assert losses == [0.25, 0.25, None]


def test_an_abandoned_attempt_leaves_one_entry_per_model():
    table = Table(rules(quorum=1.0))
    table.join("a", "sst2")
    table.join("b", "qqp")
    answer(table, "a", 1)
    table.now = RULES.round_timeout_seconds
    for client in ("a", "b"):
        table.apply(Seen(table.now, client, ""))
    for right in (2, 3, 4):
        answer(table, "a", right)
        answer(table, "b", right)
    history = report_of(table)["tasks"]["sst2"]["history"]
    assert [(entry["round"], entry["accuracy"]) for entry in history] == [(0, 0.2), (1, 0.3), (2, 0.4)]


def test_metrics_are_those_of_the_newest_model_that_was_scored():
    table = Table()
    table.join("a", "sst2", "qqp")
    answer(table, "a", 9)
    for _ in range(2):
        header = table.header("a")
        silent = tuple(TaskResult(r.task, r.examples, r.train_loss, None) for r in header.results)
        table.apply(Answered(0.0, "a", replace(header, results=silent)))
    section = report_of(table)["tasks"]["sst2"]
    assert section["metrics"]["accuracy"] == 0.9 and section["scored_round"] == 0


def test_clients_are_counted_by_how_their_orders_ended():
    table = Table()
    table.join("a", "sst2")
    table.join("b", "qqp")
    table.apply(UpdateRefused(0.0, "b", "not finite", Reason.NOT_FINITE))
    table.apply(OrderFailed(0.0, "b", table.order("b").order_id, "out of memory"))
    answer(table, "a", 5)
    table.apply(Left(0.0, "b"))
    answer(table, "a", 5)
    counts = report_of(table)["clients"]["b"]
    assert (counts["rounds"], counts["refused"], counts["failed"], counts["assigned"]) == (0, 1, 2, 2)


def test_a_run_that_never_scored_anything_has_no_numbers():
    table = Table()
    table.join("a", "sst2")
    table.join("b", "qqp")
    report = report_of(table)
    section = report["tasks"]["qqp"]
    assert section["history"] == [] and section["scored_round"] is None
    assert section["metrics"] == {"f1": None, "accuracy": None, "loss": None}
    assert report["clients"]["a"]["rounds"] == 0


def test_where_sums_alone_can_be_read_nothing_is_said_of_single_clients():
    table = Table()
    table.join("a", "sst2")
    table.join("b", "sst2", "qqp")
    for client in ("a", "b"):
        table.apply(Answered(table.now, client, table.header(client)))
    journal, section = Journal(":memory:"), {"enabled": True, "min_clients": 2, "masks": True, "identities": "none"}
    journal.commit((BEGAN, RunConfiguration("hard", {"secure_aggregation": json.dumps(section)})))
    for effect in table.of(Commit):
        journal.commit(effect.records)
    facts, clients = journal.facts(), journal.clients()
    scores = TaskStatistics(20, 6.0, 12, (12, 12, 20, 0, 8, 0))
    summed = RoundSums((TaskResult("sst2", 700, 0.5, scores),))
    rounds = [
        replace(r, sums=summed, orders={n: replace(o, results=()) for n, o in r.orders.items()})
        for r in journal.rounds()
        if r.phase.publishes
    ]
    journal.close()
    report = to_json(build_report(facts, 1, TASKS, rounds, clients, "training", ""))
    assert report["secure_aggregation"] == {"min_clients": 2, "masks": True, "identities": "none"}
    assert report["tasks"]["sst2"]["examples"] == 700 and report["tasks"]["sst2"]["metrics"]["accuracy"] == 0.6
    assert {name: (client["examples"], client["scores"]) for name, client in report["clients"].items()} == {
        "a": ({}, {}),
        "b": ({}, {}),
    }
    assert to_json(from_json(Report, report)) == report
