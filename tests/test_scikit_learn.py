"""Metrics of rows that lie at several clients are those that scikit-learn computes of all of them."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from common.statistics import merge
from common.tasks import TASK_KINDS, TaskDefinition
from common.tasks.metric_sums import RECALL, SCORE_BINS, ScoreHistogram

oracle = pytest.importorskip("sklearn.metrics", reason="scikit-learn is not installed")

CLIENTS = 3
CASES = range(6)


def scored(kind: str, labels: tuple[str, ...], outputs: Any, targets: Any) -> dict[str, float | None]:
    """Every metric that is defined, of rows that are dealt out to clients."""
    type_ = TASK_KINDS[kind]
    task = TaskDefinition("t", type_, labels, False, type_.defined_metrics(labels))
    parts = [
        type_.measure(task, np.asarray(outputs, float)[at::CLIENTS], np.asarray(targets, float)[at::CLIENTS], 0.0)
        for at in range(CLIENTS)
    ]
    assert all(map(task.fits, parts))
    return task.summarise(merge(parts))


def is_near(found: float | None, wanted: float) -> bool:
    return found == pytest.approx(wanted, abs=1e-12, rel=1e-9)


@pytest.mark.parametrize("case", CASES)
@pytest.mark.parametrize("classes", [2, 4, 7])
def test_one_class_of_many(classes: int, case: int) -> None:
    rng = np.random.default_rng([classes, case])
    true = rng.integers(classes - (case % 2 and classes > 2), size=40 * (case + 1))  # in half of them one is nowhere
    outputs = rng.normal(size=(len(true), classes)) + 1.5 * np.eye(classes)[true]
    said = outputs.argmax(axis=1)
    found = scored("classification", tuple(map(str, range(classes))), outputs, true)
    average = "binary" if classes == 2 else "macro"
    assert is_near(found["accuracy"], oracle.accuracy_score(true, said))
    assert is_near(found["f1"], oracle.f1_score(true, said, average=average))
    assert is_near(found["matthews"], oracle.matthews_corrcoef(true, said))
    if classes > 3:
        top = oracle.top_k_accuracy_score(true, outputs, k=3, labels=range(classes))
        assert is_near(found["top3_accuracy"], top)


@pytest.mark.parametrize("share", [0.02, 0.3])
@pytest.mark.parametrize("case", CASES)
def test_areas_and_recall_of_rows_within_their_bounds(case: int, share: float) -> None:
    rng = np.random.default_rng(case)
    true = (rng.random(1500) < share).astype(int)
    scores = 4.0 ** (case - 2) * (rng.normal(size=1500) + 2.5 * true - 1.2)
    outputs = np.stack([-scores / 2, scores / 2], axis=1)
    found = scored("classification", ("no", "yes"), outputs, true)
    negatives, positives = np.array(ScoreHistogram().measure(outputs, true)).reshape(2, SCORE_BINS)
    n, p = negatives / negatives.sum(), positives / positives.sum()
    assert abs(found["auc"] - oracle.roc_auc_score(true, scores)) <= n @ p / 2 + 1e-12
    b, a = negatives, positives
    higher = np.cumsum([b[::-1], a[::-1]], axis=1)[:, ::-1] - [b, a]
    most, least = (
        (higher[1] + a) / np.maximum(higher[1] + a + higher[0], 1),
        (higher[1] + 1) / (higher.sum(axis=0) + 1 + b),
    )
    bound = p @ (most - least) + 1e-12
    assert abs(found["pr_auc"] - oracle.average_precision_score(true, scores)) <= bound
    rate, recall, _ = oracle.roc_curve(true, scores, drop_intermediate=False)
    rates = np.cumsum(n[::-1])[::-1]  # of false alarms where a bin and all higher ones are taken
    passing = np.flatnonzero(rates > 0.01 + 1e-12)[-1]
    assert abs(found[RECALL] - recall[rate <= 0.01].max()) <= p[passing] + 1e-12


def test_areas_and_recall_are_exact_where_no_bin_is_mixed() -> None:
    scores, true = (
        np.repeat([-3.0, -1.0, 0.5, 2.0, 4.0], [300, 20, 90, 5, 40]),
        np.repeat([0, 1, 0, 0, 1], [300, 20, 90, 5, 40]),
    )
    found = scored("classification", ("no", "yes"), np.stack([0 * scores, scores], axis=1), true)
    rate, recall, _ = oracle.roc_curve(true, scores)
    assert is_near(found["auc"], oracle.roc_auc_score(true, scores))
    assert is_near(found[RECALL], recall[rate <= 0.01].max()) and found[RECALL] == pytest.approx(40 / 60)


@pytest.mark.parametrize("case", CASES)
def test_any_subset_of_labels(case: int) -> None:
    rng = np.random.default_rng(case)
    true = (rng.random((50, 4)) < [0.0, 0.2, 0.5, 0.9]).astype(int)
    outputs = rng.normal(size=true.shape) + true
    said = (outputs > 0).astype(int)
    found = scored("multilabel", tuple("abcd"), outputs, true)
    assert is_near(found["f1_micro"], oracle.f1_score(true, said, average="micro"))
    assert is_near(found["f1_macro"], oracle.f1_score(true, said, average="macro", zero_division=0))
    assert is_near(found["accuracy"], oracle.accuracy_score(true, said))
    assert is_near(found["label_accuracy"], oracle.accuracy_score(true.ravel(), said.ravel()))


@pytest.mark.parametrize("case", CASES)
def test_one_number(case: int) -> None:
    rng = np.random.default_rng(case)
    true = 10.0**case * rng.normal(1, 1, size=60)
    said = true + 10.0**case * rng.normal(size=60)
    found = scored("regression", (), said[:, None], true)
    assert is_near(found["mae"], oracle.mean_absolute_error(true, said))
    assert is_near(found["rmse"], oracle.root_mean_squared_error(true, said))
    assert is_near(found["pearson"], float(np.corrcoef(true, said)[0, 1]))


def test_calibration_by_hand() -> None:
    """Ten rows at confidence 0.8, six of them right; five at 0.95, all right: (10 x 0.2 + 5 x 0.05) / 15."""
    sure = np.repeat([0.8, 0.95], [10, 5])
    outputs = np.stack([np.log(1 - sure), np.log(sure)], axis=1)
    true = np.array([1] * 6 + [0] * 4 + [1] * 5)
    assert scored("classification", ("no", "yes"), outputs, true)["ece"] == pytest.approx(2.25 / 15)
