"""Copies of a run folder while masked sums wait to be opened, and what starts around sums say and do not say."""

from __future__ import annotations

import asyncio
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from common.config import Config
from server.core.effects import Notice, Record
from server.reporting.values import to_json
from server.runs.backup import back_up
from server.storage.journal import Journal
from simulation.app import simulate
from tests.core_cases import Table
from tests.crashes import model_made_here
from tests.federations import array_config
from tests.masked_cases import masked_rules
from tests.processes import log_given_back
from tests.test_masked_federation import MASKED, SIX
from tests.test_regression_units import SCORE, joined


@pytest.fixture(autouse=True)
def tidy() -> Iterator[None]:
    with log_given_back(), model_made_here():
        yield


def config_in(path: Path) -> Config:
    return array_config(*MASKED, *SIX, f"run.run_dir='{path}'")


def run(path: Path, resume: bool) -> Any:
    return to_json(asyncio.run(simulate(config_in(path), resume, None)))["model_digest"]


def test_a_copy_has_the_sums_that_wait_and_goes_on_with_or_without_them(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    whole, copy, commit = tmp_path / "whole", tmp_path / "copy", Journal.commit

    def watched(journal: Journal, records: Any) -> None:
        kept: list[Record] = list(records)
        commit(journal, kept)
        if (whole / "sums" / "train-2.1.bin").exists() and not copy.exists():
            back_up(whole, copy)
            assert (copy / "sums" / "train-2.1.bin").read_bytes() == (whole / "sums" / "train-2.1.bin").read_bytes()

    with monkeypatch.context() as watching:
        watching.setattr(Journal, "commit", watched)
        digest = run(whole, False)
    assert [path.name for path in (copy / "sums").iterdir()] == ["train-2.1.bin"]
    shutil.copytree(copy, tmp_path / "bare")
    shutil.rmtree(tmp_path / "bare" / "sums")
    assert run(copy, True) == run(tmp_path / "bare", True) == digest
    assert not list((copy / "sums").iterdir())


def test_no_units_are_made_of_scores_that_clients_do_not_tell() -> None:
    schemas = {"shared": ("s" * 64, 400), "task/yield": ("y" * 64, 40)}
    table = Table(masked_rules(tasks=(SCORE,), schemas=schemas, min_clients=3))
    for name in ("ann", "bob", "cy"):
        joined(table, name, SCORE, 0.0)  # as clients with sums do, whatever they have
    assert table.state.open is not None and not table.state.units
    assert not [effect for effect in table.effects if isinstance(effect, Notice) and "scores" in effect.text]
