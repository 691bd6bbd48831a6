"""A client's secret and its ledger: made once, kept whole, and charged once per order."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from client.state.row_ledger import RowCharge, RowLedger
from common.errors import StateError
from common.privacy.accounting import Spending


def charges(folder: Path) -> list[dict[str, Any]]:
    """The lines of a client's ledger."""
    path = folder / "rows.ledger"
    return [json.loads(line) for line in path.read_text().splitlines()] if path.exists() else []


CHARGE = RowCharge("rows", "a0", "run", "train-1.1-a", "key", 5, 0.25, 1.5, 1.0)


def test_the_secret_is_made_once_and_nobody_else_reads_it(tmp_path: Path) -> None:
    keys = [RowLedger(tmp_path / name).key for name in "aab"]
    assert keys[0] == keys[1] != keys[2] and len(keys[0]) == 32
    assert (tmp_path / "a" / "rows.key").stat().st_mode & 0o777 == 0o600
    assert sorted(path.name for path in (tmp_path / "a").iterdir()) == ["rows.key", "rows.ledger"]


def test_charges_add_up_over_restarts_and_the_same_one_counts_once(tmp_path: Path) -> None:
    ledger = RowLedger(tmp_path)
    other = replace(CHARGE, order="train-2.1-a", key="another")
    ledger.charge([CHARGE])
    ledger.charge([CHARGE, other])
    again = RowLedger(tmp_path)
    again.charge([CHARGE])
    assert [found["order"] for found in charges(tmp_path)] == ["train-1.1-a", "train-2.1-a"]
    assert again.spent("rows") == Spending().add(CHARGE.mechanism, 10) == ledger.spent("rows")
    assert again.spent("rows", besides="key") == Spending().add(CHARGE.mechanism, 5)
    assert again.spent("other rows") == Spending()


@pytest.mark.parametrize("cut", range(1, 40, 7))
def test_a_line_that_a_crash_cut_off_is_left_out(tmp_path: Path, cut: int) -> None:
    ledger = RowLedger(tmp_path)
    ledger.charge([CHARGE])
    path = tmp_path / "rows.ledger"
    whole = path.read_bytes()
    path.write_bytes(whole + whole[:cut])
    assert RowLedger(tmp_path).spent("rows") == Spending().add(CHARGE.mechanism, 5)
    assert path.read_bytes() == whole


@pytest.mark.parametrize(
    "line", ["{", "[]", "{}", '{"rows": 1}', "\u00ff", json.dumps({"rows": "a", "noise": -1}), "null"]
)
def test_a_ledger_that_is_damaged_stops_the_client(tmp_path: Path, line: str) -> None:
    RowLedger(tmp_path).charge([CHARGE])
    path = tmp_path / "rows.ledger"
    path.write_text(line + "\n" + path.read_text())
    with pytest.raises(StateError, match=r"rows.ledger' is damaged; bring it back from a backup"):
        RowLedger(tmp_path)


def test_a_key_of_another_length_stops_the_client(tmp_path: Path) -> None:
    (tmp_path / "rows.key").write_bytes(b"short")
    with pytest.raises(StateError, match=r"rows.key' is damaged"):
        RowLedger(tmp_path)
