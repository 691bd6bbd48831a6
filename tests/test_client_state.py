from pathlib import Path

import pytest
import torch
import xxhash

from client.state.identity import claim
from client.state.store import RunStore
from common.bodies import DENSE_FLOAT32
from common.errors import ConfigError
from common.orders import ScopePayload, Update, UpdateHeader

OLD, NEW = ({"private/sst2": torch.full((3,), value)} for value in (1.0, 2.0))
PAYLOAD = bytes(range(40))


def update(order="train-1.1-a", payload=PAYLOAD):
    scopes = (ScopePayload("shared", 0, "a" * 64, len(payload)),)
    header = UpdateHeader(order, DENSE_FLOAT32, scopes, xxhash.xxh3_128_hexdigest(payload), (), 1.0)
    return Update(header, memoryview(payload))


class Killed(BaseException):
    pass


def killing(original, steps):
    """A change of a file that the process does not live to see once `steps` counts down to nothing."""

    def changed(path, *rest, **options):
        steps[0] -= 1
        if not steps[0]:
            raise Killed
        return original(path, *rest, **options)

    return changed


def outcomes(folder, prepare, action, monkeypatch):
    """The client's store as found when `action` was killed before its 1st, 2nd, ... change of a file, or not at all."""
    for number in range(1, 10):
        store = RunStore(folder / str(number))
        prepare(store)
        killed = False
        with monkeypatch.context() as patch:
            steps = [number]
            for name in ("rename", "replace", "unlink"):
                patch.setattr(Path, name, killing(getattr(Path, name), steps))
            try:
                action(store)
            except Killed:
                killed = True
        yield RunStore(folder / str(number))
        if not killed:
            assert number > 2  # it was killed at least twice
            return
    raise AssertionError("more changes than expected")


def value(store):
    return float(store.private()["private/sst2"][0])


def test_a_client_killed_while_it_keeps_an_update_has_all_of_it_or_none(tmp_path, monkeypatch):
    seen = set()
    for store in outcomes(tmp_path, lambda s: s.start_private(OLD), lambda s: s.save(update(), NEW), monkeypatch):
        assert value(store) == 1.0
        seen.add(store.pending is None)
        if store.pending is not None:
            assert (store.pending.header, bytes(store.pending.payload)) == (update().header, PAYLOAD)
            store.commit()
            assert value(store) == 2.0
        else:  # the next update has no private values, so settling it must not bring up those of the lost one
            store.save(update("evaluate-1.1-a"), {})
            store.commit()
            assert value(store) == 1.0
    assert seen == {True, False}


def kept(store):
    store.start_private(OLD)
    store.save(update(), NEW)


def test_a_client_killed_while_it_commits_ends_with_the_new_values(tmp_path, monkeypatch):
    for store in outcomes(tmp_path, kept, RunStore.commit, monkeypatch):
        if store.pending is not None:  # the coordinator says again that it is committed
            store.commit()
        assert value(store) == 2.0 and store.pending is None and RunStore(store._folder).pending is None


def test_a_client_killed_while_it_rolls_back_never_keeps_half_an_update(tmp_path, monkeypatch):
    for store in outcomes(tmp_path, kept, RunStore.roll_back, monkeypatch):
        assert value(store) == 1.0
        committed = store.pending is not None  # it may be handed in again and then count after all
        store.commit()
        assert value(store) == (2.0 if committed else 1.0)


def test_a_rolled_back_update_leaves_nothing(tmp_path):
    store = RunStore(tmp_path)
    kept(store)
    store.roll_back()
    store.close()
    assert store.pending is None and value(store) == 1.0
    assert [p.name for p in tmp_path.iterdir()] == ["private.safetensors"]


def test_a_client_without_private_scopes_keeps_updates_alone(tmp_path):
    store = RunStore(tmp_path)
    assert store.private() is None
    store.save(update(), {})
    again = RunStore(tmp_path)
    assert again.pending.header == update().header
    again.commit()
    again.close()
    assert list(tmp_path.iterdir()) == [] and again.private() is None


def test_a_smaller_update_after_a_larger_one_is_read_back_whole(tmp_path):
    store = RunStore(tmp_path)
    for kept_update in (update(payload=bytes(1000)), update("train-2.1-a")):
        store.save(kept_update, {})
        again = RunStore(tmp_path).pending
        assert again.header == kept_update.header and bytes(again.payload) == bytes(kept_update.payload)
        store.commit()
        assert RunStore(tmp_path).pending is None


def test_a_client_remembers_its_id_and_a_second_process_gets_another(tmp_path):
    with claim(tmp_path, None, ["sst2"]) as first:
        with claim(tmp_path, None, ["sst2"]) as second:
            assert first.client_id != second.client_id and first.folder != second.folder
            ids = {first.client_id, second.client_id}
        with pytest.raises(ConfigError, match="in use"):
            claim(tmp_path, first.client_id, ["sst2"])
    with claim(tmp_path, None, ["sst2"]) as one, claim(tmp_path, None, ["sst2"]) as two:
        assert {one.client_id, two.client_id} == ids
    with claim(tmp_path, None, ["qqp", "sst2"]) as other, claim(tmp_path, "site-7", ["sst2"]) as named:
        assert other.client_id not in ids and other.client_id.startswith("qqp-sst2-auto-")
        assert named.folder == tmp_path / "site-7"


@pytest.mark.parametrize("name", ["", "a b", "a/b", "x" * 65, "ä", "a\n", ".", "..", ".a", "a..b"])
def test_a_malformed_id_is_refused(tmp_path, name):
    with pytest.raises(ConfigError, match="client_id"):
        claim(tmp_path / "clients", name, ["sst2"])
    assert list(tmp_path.iterdir()) == []
