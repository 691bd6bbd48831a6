import os
import shutil
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from safetensors import safe_open

from common.errors import RunFolderError
from common.parameters.schema import ParameterSchema
from server.core.effects import Commit, MemberRecord, RoundClosed, RunEnded
from server.core.events import DrainRequested, Left, OrderFailed, Seen, Started
from server.core.state import ENDED, OpenOrder, Phase
from server.run_folder import RunFolder
from server.storage.journal import Journal
from server.storage.models import JournalledModels, MemoryModels, ModelFiles
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
    for _ in range(table.rules.round_attempts):
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
    """What a restart needs of a live state: its members as recorded, absent for now, and its open orders as issued."""
    members = {
        name: replace(member, token="", last_seen=0.0, present=False, doing="") for name, member in recorded.items()
    }
    open_ = state.open
    if open_ is not None:
        orders = {name: OpenOrder(name, o.client_id, o.tasks, o.scopes) for name, o in open_.orders.items()}
        open_ = replace(open_, deadline=TIMEOUT, orders=orders)
    phase = state.phase if open_ is not None or state.phase in ENDED else Phase.WAITING
    return replace(state, members=members, open=open_, phase=phase, waiting_since=0.0, draining=False)


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
    assert journal.restore(SCHEMAS, TIMEOUT) == after_restart(replace(table.state, members={}), {})
    table.join("a", "sst2")
    table.join("b", "qqp")

    def persist():
        nonlocal commits
        written, table.effects = [e for e in table.effects if isinstance(e, Commit)], []
        assert len(written) == 1  # so that the state at hand is the one of this commit
        journal.commit(written[0].records)
        recorded.update({r.member.client_id: r.member for r in written[0].records if isinstance(r, MemberRecord)})
        commits += 1
        image = crash_image(folder, commits)
        restored = image.restore(SCHEMAS, TIMEOUT)
        image.close()
        assert restored == after_restart(table.state, recorded)
        assert {m.client_id: m.settled for m in restored.members.values()} == {
            m.client_id: m.settled for m in table.state.members.values()
        }
        finish(restored)

    def finish(restored):
        """A coordinator that starts from here brings the run to its end."""
        if restored.phase in ENDED:
            return
        again = Table(table.rules)
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
        closed += [replace(r.round, deadline=0.0) for r in effect.records if isinstance(r, RoundClosed)]
    assert [(r.kind.value, r.number, r.attempt) for r in closed] == [
        ("train", 1, 1),
        ("train", 1, 2),
        ("train", 2, 1),
        ("evaluate", 2, 1),
    ]
    assert journal.rounds() == closed
    assert journal.members() == [
        replace(m, token="", present=False, doing="", last_seen=0.0) for m in table.state.members.values()
    ]


def test_a_commit_that_fails_leaves_nothing_and_the_next_one_works():
    journal = Journal(":memory:")

    def breaks():
        yield RunEnded(Phase.FAILED, "half a commit")
        raise OSError("disk")

    with pytest.raises(OSError, match="disk"):
        journal.commit(breaks())
    assert journal.facts() == {}
    journal.commit((), {"name": "x"})
    assert journal.facts() == {"name": "x"}


def test_a_process_killed_inside_a_commit_loses_nothing_committed(tmp_path):
    path = tmp_path / "journal.sqlite"
    script = """
import os, sys
from server.core.effects import RunEnded
from server.core.state import Phase
from server.storage.journal import Journal

journal = Journal(sys.argv[1])
journal.commit((), {"name": "durable"})

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
    assert journal.facts() == {"name": "durable"}
    assert journal.restore(SCHEMAS, TIMEOUT).phase is Phase.WAITING
    journal.commit((), {"seconds": "1"})
    journal.close()


def test_a_file_that_is_no_journal_is_named(tmp_path):
    path = tmp_path / "journal.sqlite"
    path.write_bytes(b"something else entirely " * 50)
    with pytest.raises(RunFolderError, match=r"journal\.sqlite"):
        Journal(path)
    with pytest.raises(RunFolderError, match="absent"):
        Journal(tmp_path / "absent" / "journal.sqlite")


# Model versions.

LAYOUT = {
    "shared": ParameterSchema.of({"encoder.w": (2, 3), "encoder.b": ()}),
    "task/sst2": ParameterSchema.of({"heads.sst2.w": (4,)}),
    "private/qqp": ParameterSchema.of({"heads.qqp.w": (2,)}),
}


def published(version):
    rng = np.random.default_rng(version)
    return {scope: rng.normal(size=LAYOUT[scope].size).astype(np.float32) for scope in ("shared", "task/sst2")}


def same(left, right):
    return left.keys() == right.keys() and all(left[k].tobytes() == right[k].tobytes() for k in left)


@pytest.fixture
def files(tmp_path):
    return ModelFiles(tmp_path / "models", LAYOUT)


class Committed(JournalledModels):
    """Every write is followed by the commit that makes it durable."""

    def write(self, version, vectors):
        super().write(version, vectors)
        self._journal.commit(())


@pytest.fixture
def journalled(files):
    return Committed(files, Journal(":memory:"))


@pytest.fixture(params=["files", "memory", "journalled"])
def store(request):
    return MemoryModels() if request.param == "memory" else request.getfixturevalue(request.param)


def test_a_version_reads_back_bit_for_bit_whatever_happens_to_the_vectors(store):
    vectors = published(0)
    vectors["shared"][:3] = [-0.0, 1e-45, np.finfo(np.float32).max]
    expected = {scope: vector.copy() for scope, vector in vectors.items()}
    store.write(0, vectors)
    vectors["shared"][:] = 9
    store.read(0)["shared"][:] = 8
    assert same(store.read(0), expected)


def test_the_newest_two_versions_are_kept(store):
    for version in range(4):
        store.write(version, published(version))
    assert same(store.read(3), published(3)) and same(store.read(2), published(2))
    for gone in (0, 1, 4):
        with pytest.raises(RunFolderError, match=str(gone)):
            store.read(gone)


def test_a_version_written_again_replaces_the_one_before(store):
    store.write(1, published(1))
    store.write(1, published(5))
    assert same(store.read(1), published(5))


def test_any_safetensors_reader_finds_the_parameters_by_name(files):
    vectors = published(3)
    files.write(3, vectors)
    with safe_open(files.path(3), framework="np") as file:
        assert set(file.keys()) == {"encoder.w", "encoder.b", "heads.sst2.w"}
        np.testing.assert_array_equal(file.get_tensor("encoder.w"), vectors["shared"][:6].reshape(2, 3))
        assert file.get_tensor("encoder.b") == vectors["shared"][6] and file.get_tensor("encoder.b").shape == ()
        assert file.metadata() == {f"scope:{scope}": LAYOUT[scope].digest for scope in vectors}


def test_private_values_lie_apart_and_versions_do_not_sweep_them_away(files):
    private = {"private/qqp": np.array([1, 2], np.float32)}
    files.write_named("private", private)
    files.write_named("nothing", {})
    for version in range(3):
        files.write(version, published(version))
    assert same(files.read_named("private", ["private/qqp"]), private)
    assert files.read_named("nothing", []) == {}


def test_a_write_that_was_killed_is_as_if_it_had_never_begun(files):
    files.write(0, published(0))
    (files.folder / ".1.partial").write_bytes(files.path(0).read_bytes()[:50])
    assert same(files.read(0), published(0))
    with pytest.raises(RunFolderError, match=r"1\.safetensors"):
        files.read(1)
    files.write(1, published(1))
    assert same(files.read(1), published(1))
    assert sorted(p.name for p in files.folder.iterdir()) == ["0.safetensors", "1.safetensors"]


def test_a_small_version_becomes_durable_with_the_next_commit_and_a_file_when_asked(tmp_path, files):
    journal = Journal(tmp_path / "journal.sqlite")
    models = JournalledModels(files, journal)
    models.write(1, published(1))
    assert not files.folder.exists() and Journal(tmp_path / "journal.sqlite").model(1) is None
    journal.commit(())
    assert same(JournalledModels(files, Journal(tmp_path / "journal.sqlite")).read(1), published(1))
    models.write_out(1)
    assert same(files.read(1), published(1))


def test_a_large_version_is_a_file(tmp_path, monkeypatch, files):
    monkeypatch.setattr("server.storage.models.INLINE_BYTES", 10)
    journal = Journal(":memory:")
    models = JournalledModels(files, journal)
    models.write(1, published(1))
    journal.commit(())
    assert journal.model(1) is None and same(files.read(1), models.read(1))


@pytest.mark.parametrize("keep", [0, 4, 30, -1])
def test_a_damaged_version_in_the_journal_is_named_instead_of_read(journalled, files, keep):
    journalled._journal.enclose(0, files.encode(published(0))[:keep])
    journalled._journal.commit(())
    with pytest.raises(RunFolderError, match=r"0\.safetensors"):
        journalled.read(0)


@pytest.mark.parametrize("keep", [0, 4, 30, -1])
def test_a_damaged_version_is_named_instead_of_read(files, keep):
    files.write(0, published(0))
    files.path(0).write_bytes(files.path(0).read_bytes()[:keep])
    with pytest.raises(RunFolderError, match=r"0\.safetensors"):
        files.read(0)


@pytest.mark.parametrize("shape", [{"encoder.w": (3, 2), "encoder.b": ()}, {"encoder.w": (2, 3), "encoder.c": ()}])
def test_a_version_of_another_model_is_refused_with_the_parameter(files, shape):
    files.write(0, published(0))
    other = ModelFiles(files.folder, {"shared": ParameterSchema.of(shape)})
    with pytest.raises(RunFolderError, match=r"encoder\.[wc]"):
        other.read(0)


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
