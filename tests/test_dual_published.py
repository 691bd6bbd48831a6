"""MOCHA's published optima, reached by a federation of 29 sites, on loopback and in one process."""

from __future__ import annotations

import asyncio
import os
from pathlib import Path

import numpy as np
import pytest

from common.config import Config
from server.engine.coordinator import Coordinator
from tests.federations import array_config, federate

TASKS = tuple(f"mine{number}" for number in range(29))
DAEMONS = tuple((f"d{part}", TASKS[part::5], "1/1") for part in range(5))
"""Each with about six of the tasks."""


def config_of(folder: Path, strength: float, relation: str) -> Config:
    """Land mines of the reference implementation; row i (from 1) of a task is for testing if i mod 4 == 0."""
    path = Path(os.environ.get("FEDMTL_TEST_DATA", "")) / "mocha_small" / "all.npz"
    if not path.is_file():
        pytest.skip("needs FEDMTL_TEST_DATA/mocha_small/all.npz")
    with np.load(path) as file:
        x, y, task = file["x"], file["y"], file["task"]
    for name, number in zip(TASKS, np.unique(task), strict=True):
        rows = np.flatnonzero(task == number)
        (folder / name).mkdir()
        fourth = np.arange(len(rows)) % 4 == 3
        for split, kept in (("train", rows[~fourth]), ("validation", rows[fourth])):
            np.savez(folder / name / f"{split}.npz", x=x[kept], y=(y[kept] > 0).astype(np.int64))
    kind = "{type: classification, labels: [no, yes], metrics: [accuracy]}"
    return array_config(
        f"model.mlp={{features: {x.shape[1]}, hidden: []}}",
        f"training.procedure={{name: sdca, strength: {strength}, passes: 5, bias: 0}}",
        "training.num_rounds=300",
        "training.stop_at_gap=5e-7",
        f"federation.min_clients={len(DAEMONS)}",
        f"relation={relation}",
        f"data.dir='{folder}'",
        "tasks={" + ", ".join(f"{name}: {kind}" for name in TASKS) + "}",
    )


def heads_of(coordinator: Coordinator) -> np.ndarray:
    return np.stack([coordinator.vectors[f"task/{name}"] for name in TASKS])


@pytest.mark.parametrize(
    ("strength", "relation", "optimum"),
    [
        (0.1, "none", 27.3569006204),
        pytest.param(0.01, "{name: mean, strength: 1}", 21.9735207474, marks=pytest.mark.slow),
    ],
    ids=["Sigma = I/29", "Sigma ~ I/29 + 11'/29^2"],
)
def test_five_daemons_with_29_tasks_reach_it_on_loopback_and_in_one_process(
    tmp_path: Path, strength: float, relation: str, optimum: float
) -> None:
    config = config_of(tmp_path, strength, relation)
    one = asyncio.run(federate(config, tmp_path / "one", DAEMONS, how="grpc"))
    other = asyncio.run(federate(config, tmp_path / "other", DAEMONS))
    certificates = one.journal.certificates()
    assert certificates[0].primal == pytest.approx(29.0)
    assert all(found.gap >= -1e-9 for found in certificates)
    assert certificates[-1].gap < 1e-6
    assert certificates[-1].primal == pytest.approx(optimum, abs=1e-6)
    np.testing.assert_allclose(heads_of(one), heads_of(other), rtol=0, atol=1e-12)
