"""What happens to a client whose disk lies, is full, or goes away."""

from __future__ import annotations

import errno
import logging
import os
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
import xxhash

from client.state.store import RunStore
from common.bodies import DENSE_FLOAT32
from common.errors import StateError
from common.orders import ScopePayload, Update, UpdateHeader

SCOPES = ("own/shared", "private/sst2")
PAYLOAD = np.arange(300, dtype=np.float32).tobytes()
HEADER = UpdateHeader(
    "train-3.1-a",
    DENSE_FLOAT32,
    (ScopePayload("shared", 2, "ab" * 32, len(PAYLOAD)),),
    xxhash.xxh3_128_hexdigest(PAYLOAD),
    (),
    1.0,
)


def values(value: float) -> dict[str, torch.Tensor]:
    return {scope: torch.full((50,), value) for scope in SCOPES}


def lived(folder: Path) -> None:
    """Two committed orders and one that waits: values 2 are committed, 1 are the copy before, 3 go with the update."""
    store = RunStore(folder)
    store.start_private(values(0.0))
    for number in (1, 2):
        store.save(Update(HEADER, memoryview(PAYLOAD)), values(float(number)))
        store.commit()
    store.save(Update(HEADER, memoryview(PAYLOAD)), values(3.0))


def kept(store: RunStore) -> float:
    """The one number that all private values have."""
    (found,) = {float(v) for vector in (store.private() or {}).values() for v in vector}
    return found


def flipped(data: bytes, place: int) -> bytes:
    changed = bytearray(data)
    changed[place] ^= 1 << place % 8
    return bytes(changed)


def damages(data: bytes) -> list[bytes]:
    """The file emptied, cut, longer, of zeros, and with a bit flipped in 80 places."""
    places = sorted({*range(0, len(data), max(len(data) // 60, 1)), *range(20)})
    cuts = [data[: len(data) * part // 7] for part in range(7)]
    return [*cuts, data[:-1], data + b"x", bytes(len(data)), *(flipped(data, place) for place in places)]


FILES = ("private.safetensors", "private.previous.safetensors", "private.next.safetensors", "update.bin")


@pytest.mark.parametrize("name", FILES)
def test_no_damage_of_one_file_stops_a_client_or_changes_a_value(
    name: str, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    lived(tmp_path)
    whole = {path.name: path.read_bytes() for path in tmp_path.iterdir()}
    assert set(whole) == set(FILES)
    for data in damages(whole[name]):
        for other, before in whole.items():
            (tmp_path / other).write_bytes(before)
        (tmp_path / name).write_bytes(data)
        caplog.clear()
        store = RunStore(tmp_path)
        assert store.uncommitted == HEADER.order_id  # whatever became of it, the coordinator will say
        if store.pending is not None:
            assert store.pending.header == HEADER
            assert not store.pending.whole or bytes(store.pending.payload) == PAYLOAD
        assert kept(store) == (1.0 if name == FILES[0] and "is damaged" in caplog.text else 2.0)
        store.commit()
        assert kept(store) == 3.0 or ("is damaged" in caplog.text and kept(store) == 2.0)
        assert kept(RunStore(tmp_path)) == kept(store)


@pytest.mark.parametrize("spoil", [lambda path: path.write_bytes(b"\0" * 99), lambda path: path.unlink()])
def test_private_values_without_a_whole_copy_end_in_one_line_with_the_remedy(
    spoil: Callable[[Path], object], tmp_path: Path
) -> None:
    lived(tmp_path)
    (tmp_path / FILES[0]).write_bytes(b"")
    spoil(tmp_path / FILES[1])
    for _ in range(2):
        with pytest.raises(
            StateError, match=r"is damaged .* no whole copy .*backup, or delete '.*' and lose"
        ) as caught:
            RunStore(tmp_path).private()
        assert "\n" not in caught.value.message and caught.value.exit_code == 5


def test_the_copy_before_is_named_with_its_scopes(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    lived(tmp_path)
    (tmp_path / FILES[0]).unlink()
    store = RunStore(tmp_path)
    store.roll_back()
    assert kept(store) == 1.0
    (line,) = [record for record in caplog.records if record.levelno == logging.WARNING]
    assert "is missing" in line.getMessage() and "own/shared, private/sst2" in line.getMessage()
    caplog.clear()
    assert kept(store) == 1.0 and kept(RunStore(tmp_path)) == 1.0 and not caplog.records  # said once


@pytest.mark.parametrize(
    ("number", "passing", "remedy"),
    [
        (errno.ENOSPC, True, "free some space"),
        (errno.EDQUOT, True, "free some space"),
        (errno.EMFILE, True, "ulimit -n"),
        (errno.EFBIG, False, "ulimit -f"),
        (errno.EROFS, False, "let this user write there"),
        (errno.EIO, False, "let this user write there"),
    ],
)
def test_every_failure_of_the_disk_is_one_line_with_a_remedy(
    number: int, passing: bool, remedy: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    store = RunStore(tmp_path)

    def fails(_: int) -> None:
        raise OSError(number, os.strerror(number))

    monkeypatch.setattr(store, "_flush", fails)
    for private in ({}, values(1.0)):
        with pytest.raises(StateError, match=remedy) as caught:
            store.save(Update(HEADER, memoryview(PAYLOAD)), private)
        assert (caught.value.cause, caught.value.passing) == (os.strerror(number), passing)
        assert caught.value.message.startswith(f"client.state_dir: '{tmp_path}' cannot be used")
    assert store.pending is None and RunStore(tmp_path).pending is None


def test_a_folder_that_is_gone_is_one_line(tmp_path: Path) -> None:
    store = RunStore(tmp_path / "run")
    store.start_private(values(1.0))
    for path in (tmp_path / "run").iterdir():
        path.unlink()
    (tmp_path / "run").rmdir()
    with pytest.raises(StateError, match="bring the folder back"):
        store.save(Update(HEADER, memoryview(PAYLOAD)), values(2.0))
