"""Model versions on disk, in memory and in the journal."""

from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest
from safetensors import safe_open

from common.errors import RunFolderError
from common.parameters.schema import ParameterSchema
from server.storage.journal import Journal
from server.storage.models import JournalledModels, MemoryModels, ModelFiles

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
    files.folder.mkdir()
    journal = Journal(tmp_path / "journal.sqlite")
    models = JournalledModels(files, journal)
    models.write(1, published(1))
    assert not any(files.folder.iterdir()) and Journal(tmp_path / "journal.sqlite").model(1) is None
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


def test_a_copy_and_the_version_itself_may_be_written_at_once(files):
    """As at the end of a run, where the thread of second copies may still be at the last version."""
    files.folder.mkdir()
    data = files.encode(published(1))
    with ThreadPoolExecutor(1) as thread:
        copies = [thread.submit(files.write_copy, 1, data) for _ in range(100)]
        for _ in range(100):
            files.write(1, published(1))
            assert same(files.read(1), published(1))
        assert all(copy.result() is None for copy in copies)
