"""Masks: known streams, what they depend on, and that they leave nothing behind."""

from __future__ import annotations

import sys
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from common.errors import ConfigError
from common.secure.streams import (
    BLOCK_BYTES,
    add_stream,
    add_to_cells,
    agree,
    cell_label,
    check_cells,
    derive,
    new_secret,
    public_key,
)
from common.secure.terms import session_label

SECRET = bytes(range(32))
OTHER = bytes(range(32, 64))
STEP = BLOCK_BYTES // 4


def stream(
    size: int, secret: bytes = SECRET, label: str = "run|7.1|shared"
) -> np.ndarray[tuple[int], np.dtype[np.uint32]]:
    found = np.zeros(size, dtype=np.uint32)
    add_stream(found, secret, label)
    return found


def test_a_known_stream() -> None:
    assert [f"{word:08x}" for word in stream(4)] == ["5ebd1e1a", "be5b5556", "2c36135a", "fbf2c09b"]
    wide = np.zeros(2, dtype=np.uint64)
    add_stream(wide, SECRET, "run|7.1|shared")
    assert [f"{word:016x}" for word in wide] == ["be5b55565ebd1e1a", "fbf2c09b2c36135a"]


def test_a_known_agreement() -> None:
    assert public_key(SECRET).hex() == "8f40c5adb68f25624ae5b214ea767a6ec94d829d3d7b5e1ad1ba6f3e2138285f"
    common = agree(SECRET, public_key(OTHER))
    assert common.hex() == "9663aa1da97e848a914a436d04163dfbb89178f107f1b5b77ed3854203382854"
    assert agree(OTHER, public_key(SECRET)) == common


@pytest.mark.parametrize("size", [0, 1, 3, STEP - 1, STEP, STEP + 1, 2 * STEP + 5])
@pytest.mark.parametrize("kind", [np.uint32, np.uint64])
def test_what_is_added_is_taken_away_again(size: int, kind: type[np.uint32] | type[np.uint64]) -> None:
    values: Any = np.random.default_rng(0).integers(0, np.iinfo(kind).max, size, dtype=kind)
    cell = values.copy()
    add_stream(cell, SECRET, "a")
    add_stream(cell, OTHER, "a", subtract=True)
    assert size < 3 or not np.array_equal(cell, values)
    add_stream(cell, OTHER, "a")
    add_stream(cell, SECRET, "a", subtract=True)
    assert np.array_equal(cell, values)


def test_blocks_do_not_show() -> None:
    assert np.array_equal(stream(2 * STEP + 5)[: STEP + 3], stream(STEP + 3))
    part = np.zeros(4 * STEP, dtype=np.uint32)
    add_stream(part[::2], SECRET, "run|7.1|shared")
    assert np.array_equal(part[::2], stream(2 * STEP))


def test_secret_run_round_attempt_circle_and_cell_each_give_another_stream() -> None:
    labels = [
        cell_label(session_label(*session), cell)
        for session, cell in [
            (("run", 7, 1, "shared"), "shared"),
            (("nur", 7, 1, "shared"), "shared"),
            (("run", 8, 1, "shared"), "shared"),
            (("run", 7, 2, "shared"), "shared"),
            (("run", 7, 1, "task/a"), "shared"),
            (("run", 7, 1, "shared"), "scores"),
        ]
    ]
    assert labels[0] == "run|7.1|shared|shared"
    found = {stream(8, secret, label).tobytes() for label in labels for secret in (SECRET, OTHER)}
    assert len(found) == 12


@given(st.text(max_size=5), st.text(max_size=5), st.text(max_size=5))
def test_no_two_cells_share_a_label(run: str, circle: str, cell: str) -> None:
    if "|" in run + circle + cell:
        with pytest.raises(ValueError, match="has a"):
            cell_label(session_label(run, 1, 1, circle), cell)
    else:
        assert cell_label(session_label(run, 1, 1, circle), cell).split("|") == [run, "1.1", circle, cell]


def test_cells_of_a_session_have_streams_of_their_own() -> None:
    cells = {"a": np.zeros(8, dtype=np.uint32), "b": np.zeros(8, dtype=np.uint32)}
    add_to_cells(cells, SECRET, "run|7.1|shared")
    assert np.array_equal(cells["a"], stream(8, label="run|7.1|shared|a"))
    assert not np.array_equal(cells["a"], cells["b"])


@pytest.mark.parametrize(
    "cells",
    [
        {"a": np.zeros(2, dtype=np.int32)},
        {"a": np.zeros((2, 2), dtype=np.uint32)},
        {"a|b": np.zeros(2, dtype=np.uint32)},
    ],
)
def test_what_is_no_cell_is_refused(cells: dict[str, np.ndarray[tuple[int], np.dtype[np.uint32]]]) -> None:
    with pytest.raises(ValueError, match=r"a cell is|has a"):
        check_cells(cells, "run|7.1|shared")
    with pytest.raises(ValueError, match=r"a cell is|has a"):
        add_to_cells(cells, SECRET, "run|7.1|shared")


def test_keys_of_other_lengths_and_of_low_order_are_refused() -> None:
    for broken in (b"", bytes(31), bytes(33)):
        with pytest.raises(ValueError, match="32 bytes"):
            public_key(broken)
        for keys in ((broken, OTHER), (SECRET, broken)):
            with pytest.raises(ValueError, match="32 bytes"):
                agree(*keys)
        with pytest.raises(ValueError, match="32 bytes"):
            derive(broken, b"")
    for low in (bytes(32), b"\x01" + bytes(31)):
        with pytest.raises(ValueError, match="low order"):
            agree(SECRET, low)


def test_secrets_differ() -> None:
    assert len({new_secret() for _ in range(100)}) == 100
    assert len(new_secret()) == 32


def test_without_the_package_there_is_one_line(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "cryptography.hazmat.primitives.ciphers", None)
    with pytest.raises(ConfigError, match=r"pip install 'fedmtl\[secure\]'"):
        stream(1)
