"""The guard: when a task falls back, what falling back means, and that isolated models are those of going alone."""

from __future__ import annotations

import asyncio
import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from safetensors.numpy import load_file

from common.clock import ManualClock
from common.config import load_config
from common.errors import ConfigError, Reason, Refused
from common.orders import UpdateHeader
from common.parameters.scope import isolated_scopes
from common.statistics import TaskStatistics
from common.tasks import TASK_KINDS, TaskDefinition
from server.core.effects import Commit, Guarded, Notice
from server.core.events import Answered
from server.core.facts import RunFacts
from server.core.guard import shortfall
from server.core.state import Guard
from server.reporting.report import build_report, guard_reports
from server.reporting.values import to_json
from server.runs.app import restore_run
from server.runs.assembly import in_memory
from server.runs.run_folder import RunFolder
from server.runs.saved import load_run
from server.storage.journal import Journal
from simulation.inprocess import run_together
from tests.core_cases import TASKS, Table, rules
from tests.crashes import Cast, crash_and_recover, prepare_run
from tests.federations import (
    CLIENTS,
    array_config,
    contradicting_config,
    digest_of,
    federate,
    make_client,
    make_model,
    small_config,
)

GUARD = Guard(0.01, 2)


# ---- the core ----


def right(hits, rows=100):
    """Statistics of a model that is right on so many rows, all of class 1; its F1 is 2 hits / (hits + rows)."""
    return TaskStatistics(rows, 1.0, hits, (0, 0, rows - hits, hits, rows, hits))


def answer(table, client, **pairs):
    """Hand in an update; `pairs` gives hits of the received and of the isolated model (or None) by task."""
    header = table.header(client)
    outside = getattr(table.order(client).body, "isolated_tasks", ())
    results = []
    for result in header.results:
        received, isolated = pairs.get(result.task, (50, None))
        own = None if isolated is None else right(isolated)
        examples = 0 if result.task in outside else result.examples
        results.append(replace(result, examples=examples, validation=right(received), personal=own))
    header = replace(header, results=tuple(results))
    if isinstance(header, UpdateHeader):
        scopes = tuple(scope for scope in header.scopes if scope.scope in trained(table, client))
        header = replace(header, scopes=scopes)
    return table.apply(Answered(table.now, client, header))


def trained(table, client):
    return {scope.scope for scope in table.state.open.order_of(client).trained}


def table_of(num_rounds=6, **changes):
    table = Table(rules(num_rounds=num_rounds, guard=GUARD, **changes))
    table.join("a", "sst2")
    table.join("ab", "sst2", "qqp", examples=300)
    return table


def play(table, *rounds):
    """Rounds in which both clients have the same pair for sst2, and qqp is as good either way."""
    for pair in rounds:
        answer(table, "a", sst2=pair)
        answer(table, "ab", sst2=pair, qqp=(50, 50))


def falls(table):
    return [notice.text for notice in table.of(Notice) if "falls back" in notice.text]


@pytest.mark.parametrize(
    ("pairs", "fallback_tasks"),
    [
        ([(50, None), (50, 52), (50, 52)], {"sst2": 3}),
        ([(50, 52), (50, 51), (50, 52)], {}),  # one point is within the margin, and the row begins anew
        ([(50, 52), (60, 50), (50, 52), (50, 52)], {"sst2": 4}),
        ([(50, 52), (50, None), (50, 52)], {"sst2": 3}),  # a round without scores says nothing
        ([(50, 60), (52, 60), (54, 60), (56, 60)], {}),  # who catches up is waited for
        ([(50, 60), (52, 60), (50, 60), (48, 60)], {"sst2": 4}),
    ],
)
def test_a_task_falls_after_so_many_rounds_in_a_row(pairs, fallback_tasks):
    table = table_of()
    play(table, *pairs)
    assert table.state.fallback_tasks == fallback_tasks
    assert len(falls(table)) == len(fallback_tasks)


def test_the_line_in_the_log_has_the_numbers():
    table = table_of()
    play(table, (50, 58), (50, 60))
    assert falls(table) == [
        "task sst2 falls back to its isolated models after round 2: accuracy 0.5000 with the others, 0.6000 alone, "
        "worse by more than 0.01 in 2 rounds in a row"
    ]


@pytest.mark.parametrize(
    ("metric", "received", "isolated", "expected"),
    [
        ("pearson", 0.5, 0.7, 0.2),
        ("rmse", 0.5, 0.7, -0.2),
        ("rmse", 0.7, 0.5, 0.2),
        ("pearson", None, 0.1, float("inf")),
        ("pearson", 0.1, None, -float("inf")),
        ("pearson", None, None, -float("inf")),
    ],
)
def test_the_sign_turns_where_lower_is_better(metric, received, isolated, expected):
    task = TaskDefinition("t", TASK_KINDS["regression"], (), False, (metric,))
    assert shortfall(task, received, isolated) == pytest.approx(expected)


def test_a_task_that_fell_counts_nowhere():
    table = table_of()
    play(table, (50, 60), (50, 60))
    assert [table.order(name).body.isolated_tasks for name in ("a", "ab")] == [("sst2",), ("sst2",)]
    assert trained(table, "a") == set() and trained(table, "ab") == {"shared", "task/qqp"}
    header = table.header("ab")
    kept = tuple(scope for scope in header.scopes if scope.scope != "task/sst2")
    with pytest.raises(Refused, match="task 'sst2' has fallen back, so its 100 examples cannot count") as caught:
        table.apply(Answered(0.0, "ab", replace(header, scopes=kept)))
    assert caught.value.reason is Reason.MALFORMED
    answer(table, "ab", sst2=(50, 60))
    assert table.state.open.order_of("ab").weights == {"shared": 100, "task/qqp": 100}
    answer(table, "a", sst2=(50, 60))
    assert table.state.versions == {"shared": 3, "task/qqp": 3, "task/sst2": 2}
    play(table, (90, 60))
    assert table.state.fallback_tasks == {"sst2": 2}, "it stays where it is, whatever the others come to"


def test_sums_by_task_leave_it_out_too():
    table = table_of(by_task=True)
    play(table, (50, 60), (50, 60))
    (fold,) = [effect for effect in answer(table, "ab", sst2=(50, 60)) if type(effect).__name__ == "Fold"]
    assert fold.rows == {"shared": {"qqp": 100}}


def test_an_auxiliary_task_goes_on_and_is_judged_at_the_end():
    tasks = (replace(TASKS[0], auxiliary=True), TASKS[1])
    table = table_of(num_rounds=3, tasks=tasks)
    play(table, (50, 60), (50, 60), (50, 60))
    assert table.state.fallback_tasks == {} and not falls(table)
    play(table, (50, 60))
    assert len(falls(table)) == 1


def journal_of(table):
    journal = Journal(":memory:")
    for effect in table.of(Commit):
        journal.commit(effect.records)
    return journal


def test_a_restart_knows_who_fell_and_who_is_behind():
    table = table_of()
    play(table, (50, 60), (50, 60))
    answer(table, "ab", sst2=(50, 60), qqp=(50, 60))
    answer(table, "a", sst2=(50, 60))
    state = journal_of(table).restore(table.settings.schemas, 60.0)
    assert (
        (state.behind, state.fallback_tasks)
        == (table.state.behind, table.state.fallback_tasks)
        == ({"sst2": 3, "qqp": 1}, {"sst2": 2})
    )
    assert state.gaps == table.state.gaps and state.gaps["sst2"] == pytest.approx(0.1)


def test_the_last_choice_needs_no_patience_and_binds_no_further_rounds():
    table = table_of(num_rounds=1)
    play(table, (50, None), (50, 60))
    assert falls(table) == [
        "task sst2 falls back to its isolated models after round 1: accuracy 0.5000 with the others, 0.6000 alone, "
        "worse by more than 0.01"
    ]
    journal = journal_of(table)
    assert to_json(guard_reports(TASKS, journal.guarded())) == {
        "sst2": {"model": "isolated", "fallen_back": 1, "metric": "accuracy", "received": 0.5, "isolated": 0.6},
        "qqp": {"model": "received", "fallen_back": None, "metric": "f1", "received": 0.666667, "isolated": 0.666667},
    }
    state = journal.restore(table.settings.schemas, 60.0)
    assert (state.behind, state.fallback_tasks) == ({"qqp": 0}, {})


def test_a_run_that_is_prolonged_reports_its_last_choice():
    before, after = (Guarded(n, "sst2", 0.5, value, 0, value > 0.5, True) for n, value in ((1, 0.6), (2, 0.5)))
    found = to_json(guard_reports(TASKS, [before, after]))["sst2"]
    assert (found["model"], found["fallen_back"]) == ("received", None)


def test_an_order_without_names_is_about_all_tasks():
    assert isolated_scopes(["shared", "task/a"], (), ()) == frozenset()
    assert isolated_scopes(["shared", "task/a", "task/b"], ("a", "b"), ("a",)) == {"task/a"}
    assert isolated_scopes(["shared", "task/a"], ("a",), ("a",)) == {"shared", "task/a"}


# ---- federations ----

LONE = {
    "plain": (),
    "fedprox": ("training.procedure=fedprox", "training.anchor={name: start, strength: 0.1}"),
    "fedper": ("sharing.plan=fedper",),
}


@pytest.mark.parametrize("name", ["plain", *(pytest.param(n, marks=pytest.mark.slow) for n in ("fedprox", "fedper"))])
def test_isolated_models_are_those_of_going_alone_bit_for_bit(tmp_path, name):
    """Clipping, compact tables, clients with two tasks and tasks that fell included; plan local is plain training.

    An anchor at the run's first values holds both, and nothing else of what an order pulls shared scopes to.
    """
    guarded = small_config(
        tmp_path, *LONE[name], "guard={enabled: true, margin: 0.0, rounds: 1}", "training.num_rounds=3"
    )
    anchors = [override for override in LONE[name] if override.startswith("training.anchor")]
    alone = small_config(tmp_path, "sharing.plan=local", "training.num_rounds=3", *anchors)
    asyncio.run(federate(guarded, tmp_path / "guarded"))
    asyncio.run(federate(alone, tmp_path / "alone"))
    for client, _, _ in CLIENTS:
        kept = load_file(next((tmp_path / "guarded" / client).rglob("private.safetensors")))
        own = [vector for scope, vector in kept.items() if scope.startswith("own/")]
        lone = load_file(next((tmp_path / "alone" / client).rglob("private.safetensors")))
        np.testing.assert_array_equal(np.sort(np.concatenate(own)), np.sort(np.concatenate(list(lone.values()))))


def test_the_guard_leaves_no_trace_in_the_shared_model_while_nobody_falls(tmp_path):
    usual = asyncio.run(federate(array_config(), tmp_path / "usual", PAIR))
    watched = asyncio.run(federate(array_config("guard={enabled: true, margin: 1.0}"), tmp_path / "watched", PAIR))
    assert digest_of(usual) == digest_of(watched)


PAIR = [("x", ["a0", "b1"], "1/2"), ("y", ["b1"], "2/2")]


def test_a_task_that_fell_leaves_no_trace_in_what_the_others_train(tmp_path):
    config = array_config("guard=true", "federation.min_clients=2")
    coordinator = in_memory(config, make_model(config), ManualClock())
    coordinator.writer.state = replace(coordinator.writer.state, fallback_tasks={"b1": 0})
    asyncio.run(_play(config, coordinator, tmp_path / "with"))
    other = array_config(tasks=["a0"])
    without = asyncio.run(federate(other, tmp_path / "without", [("x", ["a0"], "1/2")]))
    for scope in ("shared", "task/a0"):
        np.testing.assert_array_equal(coordinator.vectors[scope], without.vectors[scope])
    np.testing.assert_array_equal(coordinator.vectors["task/b1"], make_model(config).vectors["task/b1"].numpy())


async def _play(config, coordinator, folder):
    from client.agent import Agent

    agents = [Agent(coordinator, make_client(config, *client), folder / client[0]) for client in PAIR]
    await run_together(coordinator, agents)


@pytest.fixture(scope="module")
def contradiction(tmp_path_factory):
    settings = ("training.num_rounds=5", "guard={enabled: true, margin: 0.1}", "federation.min_clients=2")
    return contradicting_config(tmp_path_factory.mktemp("contradiction"), *settings)


RIVALS = [("big", ["a0"], "1/1"), ("small", ["b1"], "1/1")]


def report_of(coordinator):
    journal = coordinator.journal
    found = journal.rounds(), journal.clients(), "finished", ""
    report = to_json(build_report(RunFacts(), 0, coordinator.settings.tasks, *found, guarded=journal.guarded()))
    return json.loads(json.dumps(report, allow_nan=False))


def test_a_task_that_sharing_hurts_ends_with_its_isolated_models(contradiction, tmp_path):
    coordinators = [
        asyncio.run(federate(contradiction, tmp_path / how, RIVALS, how=how, shuffle=1)) for how in ("direct", "grpc")
    ]
    assert len({digest_of(coordinator) for coordinator in coordinators}) == 1
    report, other = map(report_of, coordinators)
    assert report["tasks"] == other["tasks"]
    assert coordinators[0].state.fallback_tasks == {"b1": 4}
    fell, kept = report["tasks"]["b1"], report["tasks"]["a0"]
    assert fell["guard"]["model"] == "isolated" and fell["guard"]["fallen_back"] == 4
    assert fell["metrics"]["accuracy"] == fell["guard"]["isolated"] > fell["guard"]["received"] + 0.3
    assert fell["metrics"]["loss"] == report["personalisation"]["small"]["b1"]["personal"]["loss"]
    assert kept["guard"]["model"] == "received" and kept["guard"]["fallen_back"] is None
    assert kept["metrics"]["accuracy"] == kept["history"][-1]["accuracy"]
    alone = [entry["personal"]["accuracy"] for entry in fell["history"] if "personal" in entry]
    assert len(alone) == 5, "isolated models go on to be trained and scored"


@pytest.mark.slow
def test_a_coordinator_that_dies_comes_to_the_same_decision(contradiction, tmp_path):
    template, cast = prepare_run(contradiction, tmp_path / "template"), Cast(contradiction, RIVALS)
    whole, effects = asyncio.run(crash_and_recover(contradiction, template, tmp_path / "whole", cast, None, False))
    expected = guards_in(contradiction, tmp_path / "whole")
    commits = [number for number, effect in enumerate(effects, 1) if effect == "Commit"]
    for step in (commits[3] - 1, commits[4] - 1, commits[4], len(effects) - 3):
        found, _ = asyncio.run(crash_and_recover(contradiction, template, tmp_path / str(step), cast, step, False))
        assert found == whole and guards_in(contradiction, tmp_path / str(step)) == expected, f"died after {step}"


def guards_in(config, place: Path):
    folder = RunFolder.resume(place / "run")
    journal = Journal(folder.journal)
    try:
        state = restore_run(config, folder, journal)[-1]
        assert state.fallback_tasks == {"b1": 4}
        return journal.guarded()
    finally:
        journal.close()


# ---- the configuration ----


def test_true_is_short_for_enabled():
    assert load_config(None, ["tasks.sst2=", "guard=true"]) == load_config(None, ["tasks.sst2=", "guard.enabled=true"])


@pytest.mark.parametrize(
    ("overrides", "line"),
    [
        (["guard.margin=0.02"], "guard.margin: is not read without the guard"),
        (["guard.rounds=3"], "guard.rounds: is not read without the guard"),
        (["guard={enabled: true, rounds: 0}"], "guard.rounds: 0 is out of range"),
        (["guard=true", "training.procedure=ditto"], "training.procedure: training.procedure and guard each give"),
        (["guard=true", "training.finetune_epochs=1"], "training.finetune_epochs: training.finetune_epochs and guard"),
        (["guard=true", "sharing.plan=local"], "guard: plan local shares nothing that could hurt"),
        (["guard=true", "sharing.plan=soft"], "guard: relation mean would go on with copies of tasks that fell back"),
        (["guard=true", "tasks.sst2.val_samples=0"], "tasks.sst2.val_samples: 0 leaves the guard nothing to compare"),
    ],
)
def test_a_contradiction_is_refused_in_one_line(overrides, line):
    with pytest.raises(ConfigError) as caught:
        load_config(None, ["tasks.sst2=", *overrides])
    (problem,) = caught.value.problems
    assert problem.startswith(line) and "\n" not in problem


def test_who_uses_the_shared_model_of_a_task_that_fell_is_warned(tmp_path, caplog):
    config = array_config()
    folder = RunFolder(prepare_run(config, tmp_path / "run"))
    journal = Journal(folder.journal)
    first, second = config.tasks
    journal.commit((Guarded(1, first, 0.5, 0.6, 1, True, False), Guarded(1, second, 0.5, 0.4, 0, False, True)))
    journal.close()
    run = load_run(folder.path)
    for task in (first, second):
        run.load_task(task)
    warnings = [record.getMessage() for record in caplog.records if "isolated" in record.getMessage()]
    assert warnings == [f"task {first} fell back to isolated models of its clients; this is the shared one"]
