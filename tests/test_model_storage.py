"""Model versions on disk, in memory and in the journal."""

from concurrent.futures import ThreadPoolExecutor
from types import MappingProxyType

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from safetensors import safe_open

from common.errors import RunFolderError
from common.parameters.schema import ParameterSchema
from server.storage.journal import Journal
from server.storage.models import JournalledModels, MemoryModels, ModelFiles
from server.storage.versions import KEPT_VERSIONS

LAYOUT = {
    "shared": ParameterSchema.of({"encoder.w": (2, 3), "encoder.b": ()}),
    "task/sst2": ParameterSchema.of({"heads.sst2.w": (4,)}),
    "private/qqp": ParameterSchema.of({"heads.qqp.w": (2,)}),
}


def published(version):
    rng = np.random.default_rng(version)
    return {scope: rng.normal(size=LAYOUT[scope].size).astype(np.float32) for scope in ("shared", "task/sst2")}


def models_in(files):
    return files.versions.path(0).parent


def same(left, right):
    return left.keys() == right.keys() and all(left[k].tobytes() == right[k].tobytes() for k in left)


@pytest.fixture
def files(tmp_path):
    return ModelFiles(tmp_path, LAYOUT)


class Committed(JournalledModels):
    """Every write is followed by the commit that makes it durable."""

    def write(self, version, vectors, changed, moments=MappingProxyType({})):
        super().write(version, vectors, changed, moments)
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
    store.write(0, vectors, LAYOUT)
    vectors["shared"][:] = 9
    store.read(0)["shared"][:] = 8
    assert same(store.read(0), expected)


def test_the_newest_two_versions_are_kept(store):
    for version in range(4):
        store.write(version, published(version), LAYOUT)
    assert same(store.read(3), published(3)) and same(store.read(2), published(2))
    for gone in (0, 1, 4):
        with pytest.raises(RunFolderError, match=str(gone)):
            store.read(gone)


def test_a_version_written_again_replaces_the_one_before(store):
    store.write(1, published(1), LAYOUT)
    store.write(1, published(5), LAYOUT)
    assert same(store.read(1), published(5))


def test_any_safetensors_reader_finds_the_parameters_by_name(files):
    vectors = published(3)
    files.write(3, vectors, LAYOUT)
    with safe_open(files.versions.path(3), framework="np") as file:
        assert set(file.keys()) == {"encoder.w", "encoder.b", "heads.sst2.w"}
        np.testing.assert_array_equal(file.get_tensor("encoder.w"), vectors["shared"][:6].reshape(2, 3))
        assert file.get_tensor("encoder.b") == vectors["shared"][6] and file.get_tensor("encoder.b").shape == ()
        assert file.metadata() == {f"scope:{scope}": LAYOUT[scope].digest for scope in vectors}


def test_private_values_lie_apart_and_versions_do_not_sweep_them_away(files):
    private = {"private/qqp": np.array([1, 2], np.float32)}
    files.write_private(private)
    for version in range(3):
        files.write(version, published(version), LAYOUT)
    assert same(files.read_private(), private)


def test_a_write_that_was_killed_is_as_if_it_had_never_begun(files):
    files.write(0, published(0), LAYOUT)
    (models_in(files) / ".1.partial").write_bytes(files.versions.path(0).read_bytes()[:50])
    assert same(files.read(0), published(0))
    with pytest.raises(RunFolderError, match=r"1\.safetensors"):
        files.read(1)
    files.write(1, published(1), LAYOUT)
    assert same(files.read(1), published(1))
    assert sorted(p.name for p in models_in(files).iterdir()) == ["0.safetensors", "1.safetensors"]


def test_a_small_version_becomes_durable_with_the_next_commit_and_a_file_when_asked(tmp_path, files):
    models_in(files).mkdir()
    journal = Journal(tmp_path / "journal.sqlite")
    models = JournalledModels(files, journal)
    models.write(1, published(1), LAYOUT)
    assert not any(models_in(files).iterdir()) and Journal(tmp_path / "journal.sqlite").model(1) is None
    journal.commit(())
    assert same(JournalledModels(files, Journal(tmp_path / "journal.sqlite")).read(1), published(1))
    models.write_out(1)
    assert same(files.read(1), published(1))


def test_a_large_version_is_a_file(tmp_path, monkeypatch, files):
    monkeypatch.setattr("server.storage.models.INLINE_BYTES", 10)
    journal = Journal(":memory:")
    models = JournalledModels(files, journal)
    models.write(1, published(1), LAYOUT)
    journal.commit(())
    assert journal.model(1) is None and same(files.read(1), models.read(1))


@pytest.mark.parametrize("keep", [0, 4, 30, -1])
def test_a_damaged_version_in_the_journal_is_named_instead_of_read(journalled, files, keep):
    journalled._journal.enclose(0, b"".join(files.versions.whole(published(0)))[:keep])
    journalled._journal.commit(())
    with pytest.raises(RunFolderError, match=r"0\.safetensors"):
        journalled.read(0)


@pytest.mark.parametrize("keep", [0, 4, 30, -1])
def test_a_damaged_version_is_named_instead_of_read(files, keep):
    files.write(0, published(0), LAYOUT)
    files.versions.path(0).write_bytes(files.versions.path(0).read_bytes()[:keep])
    with pytest.raises(RunFolderError, match=r"0\.safetensors"):
        files.read(0)


@pytest.mark.parametrize("shape", [{"encoder.w": (3, 2), "encoder.b": ()}, {"encoder.w": (2, 3), "encoder.c": ()}])
def test_a_version_of_another_model_is_refused_with_the_parameter(tmp_path, files, shape):
    files.write(0, published(0), LAYOUT)
    other = ModelFiles(tmp_path, {"shared": ParameterSchema.of(shape)})
    with pytest.raises(RunFolderError, match=r"encoder\.[wc]"):
        other.read(0)


def test_a_copy_and_the_version_itself_may_be_written_at_once(files):
    """As at the end of a run, where the thread of second copies may still be at the last version."""
    models_in(files).mkdir()
    data = b"".join(files.versions.whole(published(1)))
    with ThreadPoolExecutor(1) as thread:
        copies = [thread.submit(files.versions.write_copy, 1, data) for _ in range(100)]
        for _ in range(100):
            files.write(1, published(1), LAYOUT)
            assert same(files.read(1), published(1))
        assert all(copy.result() is None for copy in copies)


def test_a_version_holds_what_changed_and_says_where_the_rest_lies(files):
    first, second, third = published(0), published(1), published(2)
    files.write(0, first, first)
    files.write(1, {**first, "task/sst2": second["task/sst2"]}, {"task/sst2"})
    with safe_open(files.versions.path(1), framework="np") as file:
        assert set(file.keys()) == {"heads.sst2.w"}
        assert file.metadata() == {"scope:task/sst2": LAYOUT["task/sst2"].digest, "at:shared": "0"}
    now = {**first, "task/sst2": third["task/sst2"]}
    for version in range(2, 9):
        files.write(version, now, {"task/sst2"} if version == 2 else {})
        names = {f"{n}.safetensors" for n in (0, 2, version - 1, version)}
        assert {p.name for p in models_in(files).iterdir()} == names
    assert same(files.read(8), now) and same(files.read(7), now)
    files.write(9, third, third)
    files.write(10, third, {})
    assert sorted(p.name for p in models_in(files).iterdir()) == ["10.safetensors", "9.safetensors"]


def test_a_store_that_has_not_seen_the_version_before_writes_everything(tmp_path, files):
    files.write(4, published(4), LAYOUT)
    ModelFiles(tmp_path, LAYOUT).write(5, published(4), {})
    files.versions.path(4).unlink()
    assert same(files.read(5), published(4))


@pytest.mark.parametrize("how", ["gone", "cut", "flipped"])
def test_a_file_that_a_later_version_needs_is_named_with_the_version_and_the_remedy(tmp_path, files, how, monkeypatch):
    monkeypatch.setattr("server.storage.models.INLINE_BYTES", 0)
    models = Committed(files, Journal(":memory:"))
    models.write(0, published(0), LAYOUT)
    for version in range(1, 5):
        models.write(version, published(0) | {"task/sst2": published(version)["task/sst2"]}, {"task/sst2"})
    data = bytearray(files.versions.path(0).read_bytes())
    match how:
        case "gone":
            files.versions.path(0).unlink()
        case "cut":
            files.versions.path(0).write_bytes(data[:-1])
        case "flipped":
            data[-1] ^= 1
            files.versions.path(0).write_bytes(data)
    with pytest.raises(
        RunFolderError, match=r"models/0\.safetensors: .*version 4 needs it; restore a backup"
    ) as caught:
        models.read(4)
    assert "\n" not in str(caught.value)


MANY = {name: ParameterSchema.of({f"{name}.w": (2,)}) for name in ("shared", "task/a", "task/b", "member/{member}")}
COPIES = ("member/x", "member/y", "anchor/member/x")
steps = st.lists(
    st.tuples(st.frozensets(st.sampled_from([*MANY, *COPIES])), st.sampled_from(["", "reopen", "again", "back"])),
    max_size=14,
)


@pytest.mark.slow
@settings(max_examples=60)
@given(steps=steps, inline=st.booleans())
def test_whatever_changes_when_files_hold_what_memory_holds(steps, inline, tmp_path_factory):
    """Scopes change, copies of members come up, the process starts again, a version is lost or written twice."""
    root = tmp_path_factory.mktemp("run")
    (root / "models").mkdir()
    with pytest.MonkeyPatch.context() as patch:
        # A few scopes fit into the journal, and more do not: a run that grows passes from one to the other.
        patch.setattr("server.storage.models.INLINE_BYTES", 40 if inline else 0)
        journal, memory = Journal(":memory:"), MemoryModels()
        models = Committed(ModelFiles(root, MANY), journal)
        rng = np.random.default_rng(0)
        values = {scope: rng.normal(size=2).astype(np.float32) for scope in MANY}
        moments = {f"momentum/{scope}": rng.normal(size=2).astype(np.float32) for scope in MANY}
        models.write(0, values, values)
        memory.write(0, values, values)
        version = 0
        for changed, then in steps:
            if then == "back" and version:
                version -= 1
                values = memory.read(version)
                moments = {name: moments[name] for name in (f"momentum/{scope}" for scope in values)}
                moments = memory.read_moments(version, list(moments)) if version else moments
            if then in ("reopen", "back"):
                models = Committed(ModelFiles(root, MANY), journal)
                assert same(models.read(version), values)
                found = models.read_moments(version, list(moments) if version else [])
                assert not version or same(found, moments)
            version += 1
            for _ in range(2 if then == "again" else 1):
                values = values | {scope: rng.normal(size=2).astype(np.float32) for scope in changed}
                moments = moments | {f"momentum/{s}": rng.normal(size=2).astype(np.float32) for s in changed}
                for store in (models, memory):
                    store.write(version, values, changed, moments)
            assert same(models.read(version), memory.read(version))
            for folder in (root / "models", root / "models" / "optimizer"):
                assert len(list(folder.glob("*.safetensors"))) <= KEPT_VERSIONS + len(MANY) + len(COPIES)
