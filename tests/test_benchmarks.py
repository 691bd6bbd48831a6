"""Every benchmark that needs no network, at the smallest size: it ends, and its JSON lines hold what they promise."""

from __future__ import annotations

import argparse
import json
import os
from pathlib import Path
from typing import Any

import pytest

from benchmarks import row_privacy
from benchmarks.__main__ import main
from benchmarks.mocha_rows import read

pytestmark = pytest.mark.slow

SPREAD = {"median", "least", "greatest", "count"}


def rows_of(folder: Path, words: list[str], capsys: pytest.CaptureFixture[str]) -> list[dict[str, Any]]:
    """Run a subcommand; the rows of its tables."""
    file = folder / "results.jsonl"
    main([*words, "--json", str(file)])
    printed = capsys.readouterr().out
    lines = [json.loads(line) for line in file.read_text(encoding="utf-8").splitlines()]
    assert lines[-1]["complete"]
    assert all({"benchmark", "settings", "machine", "load"} <= line.keys() for line in lines)
    assert {"processor", "cores", "torch", "threads", "load_before"} <= lines[0]["machine"].keys()
    assert f"## {words[0]}" in printed
    assert "Load after" in printed
    return [line for line in lines if "note" not in line and "complete" not in line]


def test_mocha_is_measured_on_published_rows(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    data = os.environ.get("FEDMTL_TEST_DATA", "")
    if not (Path(data) / "school" / "all.npz").is_file():
        pytest.skip("needs FEDMTL_TEST_DATA with landmine and school")
    words = f"mocha --data {data} --tasks 3 --shuffles 1 --rounds 3 --folds 2".split()
    rows = rows_of(tmp_path, words, capsys)
    assert [row["method"].split()[0] for row in rows] == [
        *(2 * ["local", "pooled", "mean", "mocha"]),
        *("local", "hard", "adaptive", "mocha"),
    ]
    assert all(row.get("gap", 0.0) >= -1e-9 and 0 < row["rounds"] <= 3 for row in rows)


def schools() -> Path:
    """The folder with the rows of schools."""
    data = Path(os.environ.get("FEDMTL_TEST_DATA", ""))
    if not (data / "school" / "all.npz").is_file():
        pytest.skip("needs FEDMTL_TEST_DATA with school")
    return data


def test_row_privacy_is_measured_on_published_rows(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    words = f"row_privacy --data {schools()} --tasks 4 --rounds 2 --seeds 1".split()
    rows = rows_of(tmp_path, words, capsys)
    assert [row.get("method", row.get("seed")) for row in rows] == [*row_privacy.METHODS, 1, *row_privacy.METHODS]
    assert all({"clip", "rate", "steps", "strength", "tuned"} <= row.keys() for row in rows[:3])
    assert all(0.0 < row["error"] < 1.0 for row in rows[4:])


def test_schools_that_hide_rows_gain_by_a_pull_to_their_mean() -> None:
    """MR-MTL beats both ends; settings are those that tuning finds for all schools, whose noise is new in each run."""
    tasks = [row_privacy.public(rows) for rows in read(schools() / "school" / "all.npz")[:30]]
    options = argparse.Namespace(epsilon=6.0, delta=1e-3, rounds=10)
    choices = {
        "local": row_privacy.Choice(0.8, 0.3, 4),
        "fedavg": row_privacy.Choice(1.6, 0.3, 8),
        "mr_mtl": row_privacy.Choice(0.8, 0.3, 8, 0.3),
    }
    sides = row_privacy.parted(tasks)
    local, fedavg, related = (
        sum(row_privacy.federated(method, choice, *sides, seed, options) for seed in (1, 2)) / 2
        for method, choice in choices.items()
    )
    assert related < min(local, fedavg)


@pytest.mark.parametrize(
    ("words", "count", "promised"),
    [
        (
            "rounds --size 1kb --clients 2 --rounds 3",
            1,
            "round_ms coordinator_cpu_ms clients_cpu_ms coordinator_peak_mb client_peak_mb mb_up mb_down commit_ms",
        ),
        ("training --rows 32 --epochs 1 --turns 1 --without_trainer", 5, "precision"),
        ("row_noise --rows 16 --turns 1", 12, "task trained how ms cpu_ms ratio"),
        ("aggregation --words 600 --rest 1000 --updates 2 --repeats 2", 15, "what ms gb_s torch"),
        ("wire --rows 20 --val_rows 10 --rounds 1 --epochs 1", 4, "encoding mb_up mb_down up_share metric same_model"),
        ("fleet --agents 4 --size 1kb --rounds 2 --parked 5", 2, "agents connections"),
        (
            "simulation --crowd 6 --tasks 2 --rows 8 --rounds 2 --clients 3 --workers 1,2",
            4,
            "what round_ms client_ms cpu_ms",
        ),
        (
            "dual_solver --tasks 3 --rows 60 --features 4 --numpy_visits 50 --repeats 2 --losses hinge,squared",
            6,
            "loss",
        ),
        ("memory --model bert-tiny --clients 2 --rounds 1", 1, "model_mb start_peak_mb rounds_peak_mb ratio"),
        ("quality --rows 16 --rounds 1 --epochs 1 --seeds 0 --tasks sst2", 3, "task method metrics"),
    ],
    ids=lambda value: value.split()[0] if isinstance(value, str) else "",
)
def test_a_benchmark_gives_what_it_promises(
    words: str, count: int, promised: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    rows = rows_of(tmp_path, words.split(), capsys)
    assert len(rows) == count
    for row in rows:
        assert set(promised.split()) <= row.keys()
    if words.startswith("fleet"):  # every agent has a connection of its own
        assert rows[1]["connections"] == rows[1]["agents"]
    if words.startswith("wire"):
        assert [row["same_model"] for row in rows if row["encoding"].endswith("float32")] == ["yes", "yes"]
    spreads = [value for row in rows for value in row.values() if isinstance(value, dict) and "median" in value]
    assert all(value.keys() == SPREAD for value in spreads)
