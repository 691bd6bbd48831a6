"""Rows one by one: their sums are the scores of all, draws of them have the intervals that statistics know."""

from __future__ import annotations

import asyncio
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from common.config import Config
from common.errors import RunFolderError
from common.tasks import TaskDefinition
from common.tasks.formulas import area, drawn_area, drawn_spearman, spearman
from common.tasks.table import TASK_KINDS
from simulation.app import simulate
from simulation.comparison.bootstrap import drawn_scores, interval
from simulation.comparison.methods import METHODS
from simulation.comparison.outcome import Outcome, outcome_of
from simulation.comparison.runs import plan_runs
from simulation.comparison.scored_rows import ScoredRows, numbered, numbers_of
from simulation.comparison.scoring import FOLDER, score_rows
from tests.federations import array_config, small_config

RNG = np.random.Generator(np.random.PCG64(11))
LABELLED = TaskDefinition(
    "a", TASK_KINDS["classification"], ("no", "yes"), False, ("accuracy", "f1", "auc_mean", "ece")
)
NUMBER = TaskDefinition("r", TASK_KINDS["regression"], (), False, ("spearman_mean", "pearson", "rmse", "mae"))


def rows_of(
    task: TaskDefinition, outputs: np.ndarray, targets: np.ndarray, ids: np.ndarray | None = None
) -> ScoredRows:
    single = [task.type.measure(task, outputs[at : at + 1], targets[at : at + 1], 0.0) for at in range(len(targets))]
    numbers = np.array([numbers_of(statistics) for statistics in single])
    ids = np.arange(len(targets), dtype=np.uint64)
    return ScoredRows(ids, np.full(len(targets), "c"), numbers, outputs, targets)


@pytest.mark.parametrize("task", [LABELLED, NUMBER], ids=["classification", "regression"])
def test_draws_of_rows_score_as_if_they_were_repeated(task: TaskDefinition) -> None:
    """Targets far from zero, with ties."""
    outputs = RNG.normal(size=(30, task.outputs)) + 1e4 * (task is NUMBER)
    targets = RNG.integers(0, 2, 30).astype(np.float64) + 1e4 * (task is NUMBER)
    rows, counts = rows_of(task, outputs, targets), RNG.integers(0, 4, (5, 30))
    for metric in task.metrics:
        first = replace(task, metrics=(metric, *(m for m in task.metrics if m != metric)))
        for drawn, count in zip(rows.drawn(first, counts), counts, strict=True):
            places = np.repeat(np.arange(30), count)
            whole = task.type.measure(task, outputs[places], targets[places], 0.0)
            assert drawn == pytest.approx(task.summarise(whole)[metric], rel=1e-6)
    everything = task.type.measure(task, outputs, targets, 0.0)
    assert rows.scores(task) == pytest.approx(task.summarise(everything), rel=1e-6)


def test_ranks_of_draws_are_those_of_repeated_rows() -> None:
    p, y = RNG.integers(0, 9, 20).astype(np.float64), RNG.integers(0, 5, 20).astype(np.float64)
    labels, counts = (y > 2).astype(np.int64), RNG.integers(0, 3, (7, 20))
    for count, rho, under in zip(counts, drawn_spearman(p, y, counts), drawn_area(p, labels, counts), strict=True):
        places = np.repeat(np.arange(20), count)
        assert rho == pytest.approx(spearman(p[places], y[places]))
        assert under == pytest.approx(area(p[places], labels[places]))
    alone = np.eye(20, dtype=np.int64)
    assert np.isnan(drawn_spearman(p, y, alone)).all() and np.isnan(drawn_area(p, labels, alone)).all()


def outcomes(right: np.ndarray, seeds: int = 1) -> list[Outcome]:
    """Runs that answer the rows where `right` rightly, of class 1."""
    task = replace(LABELLED, metrics=("accuracy",))
    outputs = np.stack([1.0 - right, right.astype(np.float64)], axis=1)
    rows = rows_of(task, outputs, np.ones(len(right)))
    return [Outcome({}, {}, {}, False, (), 0, 0.0, "", "", {"a": rows})] * seeds


def test_intervals_are_those_of_the_paired_standard_error() -> None:
    """Of accuracy on many rows: 1.96 x the deviation of the rows' differences / sqrt(n), also if a seed is repeated."""
    count = 3000
    right = RNG.random(count) < 0.7
    other = np.where(RNG.random(count) < 0.8, right, RNG.random(count) < 0.6)
    task = replace(LABELLED, metrics=("accuracy",))
    for seeds in (1, 3):
        drawn = drawn_scores([task], {"mine": outcomes(right, seeds), "base": outcomes(other, seeds)})
        found = interval(drawn["mine"]["a"] - drawn["base"]["a"])
        differences = right.astype(float) - other
        half = 1.96 * differences.std() / np.sqrt(count)
        assert found is not None
        assert found == pytest.approx((differences.mean() - half, differences.mean() + half), abs=0.12 * half)
    same = drawn_scores([task], {"mine": outcomes(right), "base": outcomes(right)})
    assert interval(same["mine"]["a"] - same["base"]["a"]) == (0.0, 0.0)


def test_intervals_have_the_spread_over_seeds() -> None:
    """Accuracies 0, 0 and 1 whatever the rows: a mean of 3 seeds drawn is 0 with chance 8/27 and 1 with chance 1/27."""
    rows = [outcomes(np.full(50, value))[0] for value in (False, False, True)]
    drawn = drawn_scores([replace(LABELLED, metrics=("accuracy",))], {"mine": rows})["mine"]["a"]
    assert set(np.round(drawn * 3).tolist()) == {0.0, 1.0, 2.0, 3.0}
    assert [(drawn < 0.1).mean(), (drawn > 0.9).mean()] == pytest.approx([8 / 27, 1 / 27], abs=0.04)
    assert interval(drawn) == (0.0, 1.0)


def test_methods_on_different_rows_are_refused() -> None:
    mine, base = outcomes(np.ones(5, dtype=bool)), outcomes(np.ones(6, dtype=bool))
    with pytest.raises(RunFolderError, match="mine and base were scored on different rows of a; bring the data back"):
        drawn_scores([LABELLED], {"mine": mine, "base": base})


def test_a_damaged_file_of_rows_is_one_line(tmp_path: Path) -> None:
    place = tmp_path / "rows" / "a.npz"
    outcomes(np.ones(5, dtype=bool))[0].rows["a"].save(place)
    whole = place.read_bytes()
    for kept in (0, len(whole) // 2):
        place.write_bytes(whole[:kept])
        with pytest.raises(RunFolderError, match=r"rows/a\.npz' cannot be read \(.*\); remove it, it is made anew"):
            ScoredRows.load(place)


def test_equal_rows_have_ids_of_their_own() -> None:
    found = numbered(np.array([9, 5, 9, 9, 7], dtype=np.uint64))
    assert found.tolist() == [9, 5, 10, 11, 7]


KINDS = (
    "tasks={c: {type: classification, labels: [a, b, d], metrics: [f1, matthews, ece, accuracy]}, "
    "m: {type: multilabel, labels: [x, y]}, r: {type: regression, metrics: [pearson, spearman_mean, rmse, mae]}}"
)


@pytest.mark.parametrize("method", ["hard", "ditto", "local", "soft", "guard", "blend"])
def test_rows_of_a_run_come_to_what_its_report_says(method: str, tmp_path: Path) -> None:
    sizes = [f"tasks.{task}.{key}={n}" for task in "cmr" for key, n in (("train_samples", 30), ("val_samples", 12))]
    config = array_config(KINDS, *sizes, "simulation={clients: 2, tasks_per_client: 3}", "data.statistics=federation")
    _same_as_reported(config, method, tmp_path)


@pytest.mark.slow
def test_rows_of_texts_come_to_what_the_report_says(tmp_path: Path) -> None:
    """Tokens are answered text by text."""
    masked = "tasks.masked={type: masked_lm, train_samples: 12, val_samples: 12}"
    config = small_config(tmp_path, masked, "simulation={clients: 2, tasks_per_client: 3}", "federation.min_clients=1")
    _same_as_reported(config, "private_heads", tmp_path)


def _same_as_reported(config: Config, method: str, folder: Path) -> None:
    part = plan_runs(config, [METHODS[method]], [3], folder)[0].parts[0]
    report = asyncio.run(simulate(part.config, False, None, part.clients))
    said = outcome_of(config.definitions(), [report])
    rows = score_rows(part.config, report, lambda: part.held(None), [])
    assert {*rows} == {*config.tasks} and len([*(part.config.run.folder / FOLDER).iterdir()]) == len(rows)
    for task in config.definitions():
        assert rows[task.name].scores(task) == pytest.approx(said.scores[task.name], rel=1e-5, abs=2e-5)
        for client in said.clients:
            assert rows[task.name].of(client).scores(task) == pytest.approx(said.clients[client][task.name], 1e-5, 2e-5)
    again = score_rows(part.config, report, lambda: pytest.fail("nothing is answered twice"), [])
    assert all(np.array_equal(rows[task].numbers, again[task].numbers) for task in rows)
