"""The example of three banks runs at a small size."""

from __future__ import annotations

import runpy
import sys
from pathlib import Path

import numpy as np
import pytest

from tests.test_architecture import ROOT

BANK = ROOT / "examples" / "bank" / "run.py"


@pytest.mark.slow
def test_the_banks_are_compared_and_what_leaves_them_is_told(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    pytest.importorskip("matplotlib")
    bank = runpy.run_path(str(BANK))
    monkeypatch.setitem(bank["main"].__globals__, "RATES", (1e-2,))
    small = ["--customers", "12", "--rounds", "1", "--seeds", "1", "--picture", str(tmp_path / "bank.png")]
    monkeypatch.setattr(sys, "argv", [str(BANK), *small])
    bank["main"]()
    printed = capsys.readouterr().out
    assert "  scope private/churn: 66 parameters" in printed and "or of categories)" in printed
    assert printed.count("±") == 6 and (tmp_path / "bank.png").stat().st_size > 1000


def test_a_tenth_of_what_banks_know_is_missing_and_each_has_a_mix_of_its_own() -> None:
    sites = runpy.run_path(str(BANK))["banks"](1, 400)
    cells = [cell for site in sites.values() for column in site["default"][0].values() for cell in column]
    assert 0.09 < np.mean([cell is None for cell in cells]) < 0.11
    towns = {bank: site["churn"][0]["place"].count("town") for bank, site in sites.items()}
    assert towns["south"] > 2 * towns["north"]
