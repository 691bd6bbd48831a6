import math
import os
import shutil
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import pytest

from common.errors import RunFolderError
from server.core.effects import ClientChanged, Commit, Guarded, RoundClosed, RunEnded
from server.core.events import DrainRequested, Left, OrderFailed, Seen, Started
from server.core.facts import RunConfiguration, RunFacts, Traffic
from server.core.open_round import OpenOrder
from server.core.phases import ENDED, Phase
from server.runs.run_folder import RunFolder
from server.storage.journal import Journal
from tests.core_cases import RULES, SCHEMAS, Table, rules

ROOT = Path(__file__).parent.parent
TIMEOUT = RULES.round_timeout_seconds


# The journal.


def run_on(table, clients=("a", "b")):
    """Everybody answers until the run is over."""
    while table.state.phase not in ENDED:
        for client in clients:
            if table.order(client) is not None:
                table.answer(client)
        yield


def late(table, *clients):
    """The deadline comes, but the leases of `clients` hold."""
    table.now += TIMEOUT
    for client in clients:
        table.apply(Seen(table.now, client, ""))


def smooth(table):
    yield from run_on(table)


def one_task_is_kept(table):
    table.answer("a", examples=30)
    table.apply(OrderFailed(0.0, "b", table.order("b").order_id, "no reason"))
    yield
    yield from run_on(table)


def second_attempt(table):
    table.answer("a")
    late(table, "a", "b")
    yield
    yield from run_on(table)


def given_up(table):
    for _ in range(table.settings.round_attempts):
        late(table, "a", "b")
        yield


def left_alone(table):
    table.answer("a")
    table.apply(Left(table.now, "b"))
    yield
    yield from run_on(table, ("a",))


def stopped(table):
    table.apply(DrainRequested(table.now))
    for client in "ab":
        table.answer(client)
    yield


SCENARIOS = [
    (smooth, {}),
    (one_task_is_kept, {}),
    (second_attempt, {"quorum": 1.0}),
    (given_up, {"quorum": 1.0}),
    (left_alone, {"quorum": 0.5}),
    (stopped, {}),
]


def after_restart(state, recorded):
    """What a restart needs of a live state: its clients as recorded, absent for now, and its open orders as issued."""
    clients = {
        name: replace(member, token="", last_seen=0.0, present=False, activity="", validation={}, targets={}, inputs={})
        for name, member in recorded.items()  # it joins again, and says the rest again
    }
    open_ = state.open
    if open_ is not None:
        orders = {name: OpenOrder(name, o.client_id, o.tasks, o.scopes) for name, o in open_.orders.items()}
        open_ = replace(open_, deadline=TIMEOUT, began=0.0, orders=orders)
    phase = state.phase if open_ is not None or state.phase in ENDED else Phase.WAITING
    return replace(state, clients=clients, open=open_, phase=phase, waiting_since=0.0, draining=False)


def crash_image(folder, number):
    """The journal's files as a killed process leaves them."""
    copy = folder.parent / f"image{number}"
    shutil.copytree(folder, copy)
    return Journal(copy / "journal.sqlite")


@pytest.mark.parametrize(("scenario", "changes"), SCENARIOS, ids=[scenario.__name__ for scenario, _ in SCENARIOS])
def test_every_commit_restores_what_a_restart_needs(tmp_path, scenario, changes):
    folder = tmp_path / "run"
    folder.mkdir()
    table, journal, recorded, commits = Table(rules(**changes)), Journal(folder / "journal.sqlite"), {}, 0
    assert journal.restore(SCHEMAS, TIMEOUT) == after_restart(replace(table.state, clients={}), {})
    table.join("a", "sst2")
    table.join("b", "qqp")

    def persist():
        nonlocal commits
        written, table.effects = [e for e in table.effects if isinstance(e, Commit)], []
        assert len(written) == 1  # so that the state at hand is the one of this commit
        journal.commit(written[0].records)
        recorded.update({r.client.client_id: r.client for r in written[0].records if isinstance(r, ClientChanged)})
        commits += 1
        image = crash_image(folder, commits)
        restored = image.restore(SCHEMAS, TIMEOUT)
        image.close()
        assert restored == after_restart(table.state, recorded)
        assert {m.client_id: m.committed for m in restored.clients.values()} == {
            m.client_id: m.committed for m in table.state.clients.values()
        }
        finish(restored)

    def finish(restored):
        """A coordinator that starts from here brings the run to its end."""
        if restored.phase in ENDED:
            return
        again = Table(table.settings)
        again.now, again.state = 5000.0, restored
        again.apply(Started(again.now))
        again.join("a", "sst2")
        again.join("b", "qqp")
        for _ in run_on(again):
            pass
        assert again.state.phase is Phase.FINISHED and again.state.versions["shared"] == 2

    persist()
    for _ in scenario(table):
        persist()
    assert commits > 1
    journal.close()


def test_closed_rounds_come_back_with_what_their_orders_brought():
    table, journal = Table(rules(quorum=1.0)), Journal(":memory:")
    table.join("a", "sst2")
    table.join("b", "qqp")
    for _ in second_attempt(table):
        pass
    closed = []
    for effect in table.of(Commit):
        journal.commit(effect.records)
        closed += [replace(r.round, deadline=0.0, began=0.0) for r in effect.records if isinstance(r, RoundClosed)]
    assert [(r.phase.name, r.number, r.attempt) for r in closed] == [
        ("train", 1, 1),
        ("train", 1, 2),
        ("train", 2, 1),
        ("evaluate", 2, 1),
    ]
    assert journal.rounds() == closed
    assert journal.clients() == [
        replace(m, token="", present=False, activity="", last_seen=0.0, validation={}, targets={}, inputs={})
        for m in table.state.clients.values()
    ]


def test_gaps_without_limit_survive_a_restart_and_damage(tmp_path):
    """The guard's gap is infinite where only one of two models has a score at all."""
    records = [Guarded(1, f"t{i}", None, 0.1, 1, False, False, gap) for i, gap in enumerate((math.inf, -math.inf))]
    journal = Journal(tmp_path / "journal.sqlite")
    journal.commit(records)
    assert journal.guarded() == records
    journal.close()
    for name in ("journal.sqlite", "journal.sqlite-wal"):
        (tmp_path / name).unlink(missing_ok=True)
    mended = Journal(tmp_path / "journal.sqlite")  # from the log beside it
    assert mended.guarded() == records
    mended.close()


def test_a_commit_that_fails_leaves_nothing_and_the_next_one_works():
    journal = Journal(":memory:")

    def breaks():
        yield RunEnded(Phase.FAILED, "half a commit")
        raise OSError("disk")

    with pytest.raises(OSError, match="disk"):
        journal.commit(breaks())
    assert journal.facts() == RunFacts()
    journal.commit([Traffic(1)])
    assert journal.facts() == RunFacts(traffic=Traffic(1))


def test_a_process_killed_inside_a_commit_loses_nothing_committed(tmp_path):
    path = tmp_path / "journal.sqlite"
    script = """
import os, sys
from server.core.effects import RunEnded
from server.core.phases import Phase
from server.storage.journal import Journal

journal = Journal(sys.argv[1])
journal.commit([RunEnded(Phase.WAITING, "durable")])

def dies():
    yield RunEnded(Phase.FAILED, "never committed")
    os._exit(7)

journal.commit(dies())
"""
    killed = subprocess.run(
        [sys.executable, "-c", script, str(path)], cwd=ROOT, env={**os.environ, "PYTHONPATH": str(ROOT)}
    )
    assert killed.returncode == 7
    journal = Journal(path)
    assert journal.facts().reason == "durable"
    assert journal.restore(SCHEMAS, TIMEOUT).phase is Phase.WAITING
    journal.commit([Traffic(seconds=1.0)])
    journal.close()


def test_the_wal_begins_anew_once_it_is_long_and_the_file_has_it_all(tmp_path, monkeypatch):
    monkeypatch.setattr("server.storage.flushing.WAL_BYTES", 50_000)
    journal, sizes = Journal(tmp_path / "journal.sqlite"), []
    for number in range(12):
        journal.commit([RunConfiguration("x" * 10_000 + str(number))])
        journal._flusher._thread.submit(lambda: None).result()
        sizes.append((tmp_path / "journal.sqlite-wal").stat().st_size)
        shutil.copy(tmp_path / "journal.sqlite", tmp_path / "alone.sqlite")
        assert str(number) in Journal.read(tmp_path / "alone.sqlite").facts().settings.sharing_plan[10_000:]
    assert max(sizes[1:]) < 100_000 and sizes != sorted(sizes)  # the first holds the tables, too
    journal.close()


def test_a_file_that_is_no_journal_is_named(tmp_path):
    path = tmp_path / "journal.sqlite"
    path.write_bytes(b"something else entirely " * 50)
    with pytest.raises(RunFolderError, match=r"journal\.sqlite"):
        Journal(path)
    with pytest.raises(RunFolderError, match="absent"):
        Journal(tmp_path / "absent" / "journal.sqlite")


# The run folder.


def test_a_run_folder_is_made_once_and_then_resumed(tmp_path):
    path = tmp_path / "runs" / "demo"
    with pytest.raises(RunFolderError, match="holds no run"):
        RunFolder.resume(path)
    folder = RunFolder.create(path)
    Journal(folder.journal).close()
    with pytest.raises(RunFolderError, match="--resume"):
        RunFolder.create(path)
    with pytest.raises(RunFolderError, match="another coordinator"):
        RunFolder.resume(path)
    assert RunFolder.open(path).journal == folder.journal
    del folder
    assert RunFolder.resume(path).path == path


def test_somebody_elses_folder_is_left_alone(tmp_path):
    (tmp_path / "notes.txt").write_text("mine")
    with pytest.raises(RunFolderError, match="not empty"):
        RunFolder.create(tmp_path)
    with pytest.raises(RunFolderError, match="not empty"):
        RunFolder.create(tmp_path / "notes.txt")
    assert [p.name for p in tmp_path.iterdir()] == ["notes.txt"]


def test_a_run_that_died_before_its_journal_can_be_started_anew(tmp_path):
    folder = RunFolder.create(tmp_path / "run")
    del folder
    assert RunFolder.create(tmp_path / "run").path == tmp_path / "run"


def test_files_of_a_run_are_whole_and_never_hold_nan(tmp_path):
    folder = RunFolder.create(tmp_path / "run")
    path = folder.write_json("report.json", {"a": 1})
    with pytest.raises(ValueError, match="JSON"):
        folder.write_json("report.json", {"a": float("nan")})
    assert path.read_text() == '{\n  "a": 1\n}\n'
    assert sorted(p.name for p in folder.path.iterdir()) == ["lock", "report.json"]
