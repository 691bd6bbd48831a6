from dataclasses import replace
from itertools import pairwise
from math import isfinite, sqrt

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.stats import spearmanr

from common.metrics import LARGEST, TaskStatistics, fits, is_better, measure, merge, summarise
from common.tasks import METRICS, TaskDefinition, TaskType

BINARY = TaskDefinition("b", TaskType.CLASSIFICATION, ("no", "yes"), False, METRICS[TaskType.CLASSIFICATION])
THREE = TaskDefinition("c", TaskType.CLASSIFICATION, ("x", "y", "z"), False, ("accuracy", "f1", "matthews"))
TAGS = TaskDefinition("m", TaskType.MULTILABEL, ("p", "q"), False, METRICS[TaskType.MULTILABEL])
SCORE = TaskDefinition("r", TaskType.REGRESSION, (), True, METRICS[TaskType.REGRESSION])


def one_hot(predicted, size):
    return np.eye(size)[np.asarray(predicted)]


def scores(task, outputs, targets, loss_sum=0.0):
    return summarise(task, measure(task, np.asarray(outputs, float), np.asarray(targets, float), loss_sum))


def column(values):
    return np.asarray(values, float)[:, None]


@st.composite
def split_rows(draw):
    seed, rows = draw(st.integers(0, 2**32 - 1)), draw(st.integers(1, 60))
    cuts = sorted(draw(st.sets(st.integers(1, max(rows - 1, 1)), max_size=4)) - {rows})
    return np.random.default_rng(seed), rows, list(pairwise([0, *cuts, rows]))


@settings(max_examples=60, deadline=None)
@given(split_rows())
def test_merged_class_counts_equal_those_of_pooled_predictions(case):
    rng, rows, parts = case
    for task in (BINARY, THREE):
        outputs = rng.normal(size=(rows, task.outputs))
        targets = rng.integers(task.outputs, size=rows).astype(float)
        merged = merge([measure(task, outputs[a:b], targets[a:b], float(b - a)) for a, b in parts])
        pooled = measure(task, outputs, targets, float(rows))
        exact = ("accuracy", "f1", "matthews", "loss")
        assert {k: summarise(task, merged)[k] for k in exact} == {k: summarise(task, pooled)[k] for k in exact}
        assert summarise(task, merged)["accuracy"] == np.mean(outputs.argmax(axis=1) == targets)


@settings(max_examples=60, deadline=None)
@given(split_rows())
def test_merged_moments_give_pearson_and_rmse_of_pooled_predictions(case):
    rng, rows, parts = case
    p, y = rng.normal(3, 1, rows), rng.uniform(0, 5, rows)
    values = summarise(SCORE, merge([measure(SCORE, column(p[a:b]), y[a:b], 0.0) for a, b in parts]))
    assert values["rmse"] == pytest.approx(sqrt(np.mean((p - y) ** 2)), rel=1e-9)
    if rows > 2:
        assert values["pearson"] == pytest.approx(np.corrcoef(p, y)[0, 1], abs=1e-7)


def test_scores_that_need_the_rows_are_means_weighted_by_examples():
    parts = [TaskStatistics(1, 0, (1, 0, 0, 0), (), (("auc_mean", 0.5, 1),)), TaskStatistics(2, 0, (2, 0, 0, 0))]
    parts.append(TaskStatistics(3, 0, (3, 0, 0, 0), (), (("auc_mean", 0.9, 3),)))
    assert summarise(BINARY, merge(parts))["auc_mean"] == pytest.approx((0.5 + 2.7) / 4)


def test_binary_scores_by_hand():
    # 3 true positives, 1 false positive, 2 false negatives, 4 true negatives.
    targets, predicted = [1] * 5 + [0] * 5, [1, 1, 1, 0, 0, 1, 0, 0, 0, 0]
    values = scores(BINARY, one_hot(predicted, 2), targets, loss_sum=7.0)
    assert values["accuracy"] == 0.7 and values["loss"] == 0.7
    assert values["f1"] == pytest.approx(2 * 3 / (2 * 3 + 1 + 2))
    assert values["matthews"] == pytest.approx((3 * 4 - 1 * 2) / sqrt(4 * 5 * 5 * 6))


def test_three_class_scores_by_hand():
    # Rows are true classes: [[2, 0, 0], [1, 1, 0], [0, 1, 1]].
    values = scores(THREE, one_hot([0, 0, 0, 1, 1, 2], 3), [0, 0, 1, 1, 2, 2])
    assert values["accuracy"] == pytest.approx(4 / 6)
    assert values["f1"] == pytest.approx((4 / 5 + 2 / 4 + 2 / 3) / 3)
    assert values["matthews"] == pytest.approx((4 * 6 - (2 * 3 + 2 * 2 + 2 * 1)) / sqrt((36 - 14) * (36 - 12)))


def test_regression_scores_by_hand():
    values = scores(SCORE, column([1, 2, 3]), [1, 3, 2])
    assert values["pearson"] == pytest.approx(0.5) and values["spearman_mean"] == pytest.approx(0.5)
    assert values["rmse"] == pytest.approx(sqrt(2 / 3))


@pytest.mark.parametrize("scale", [1e-3, 1e-2, 1.0])
def test_a_correlation_is_never_above_one(scale):
    targets = np.arange(1, 30) / 7
    for sign in (-1, 1):
        pearson = scores(SCORE, column(3 + sign * scale * targets), targets)["pearson"]
        assert pearson == pytest.approx(sign, abs=1e-6) and abs(pearson) <= 1


def test_multilabel_counts_and_scores_by_hand():
    outputs = [[1, -1], [1, 1], [-1, 1], [-1, -1]]
    targets = [[1, 0], [0, 1], [1, 1], [0, 1]]
    statistics = measure(TAGS, np.array(outputs, float), np.array(targets, float), 0.0)
    assert statistics.confusion == (1, 1, 1, 1, 2, 0, 1, 1)  # (tp, fp, fn, tn) of p, then of q
    values = summarise(TAGS, statistics)
    assert values["f1_micro"] == pytest.approx(6 / 9) and values["accuracy"] == 5 / 8
    assert values["f1_macro"] == pytest.approx((2 / 4 + 4 / 5) / 2)


@settings(max_examples=80, deadline=None)
@given(st.lists(st.tuples(st.integers(0, 4), st.integers(0, 3)), min_size=2, max_size=40))
def test_spearman_shares_ranks_among_ties_as_scipy_does(rows):
    p, y = np.array(rows, float).T
    ours = scores(SCORE, column(p), y)["spearman_mean"]
    if len(set(p)) == 1 or len(set(y)) == 1:
        assert ours is None
    else:
        assert ours == pytest.approx(spearmanr(p, y).statistic, abs=1e-12)


@settings(max_examples=80, deadline=None)
@given(st.lists(st.tuples(st.integers(0, 5), st.booleans()), min_size=1, max_size=40))
def test_auc_is_the_share_of_pairs_in_the_right_order(rows):
    outputs = np.array([[-s / 2, s / 2] for s, _ in rows])
    ours = scores(BINARY, outputs, [label for _, label in rows])["auc_mean"]
    pairs = [(s > t) + 0.5 * (s == t) for s, yes in rows if yes for t, other in rows if not other]
    assert ours == (pytest.approx(np.mean(pairs), abs=1e-12) if pairs else None)


@pytest.mark.parametrize("value", [0.0, 0.1, 3.7, 1e6])
@pytest.mark.parametrize("rows", [1, 2, 7, 100])
def test_constant_predictions_have_no_correlation_instead_of_nan(value, rows):
    targets = np.linspace(0, 5, rows)
    values = scores(SCORE, column([value] * rows), targets)
    assert values["pearson"] is None and values["spearman_mean"] is None and isfinite(values["rmse"])


def test_scores_of_one_class_are_never_nan():
    values = scores(BINARY, one_hot([0, 0], 2), [0, 0])
    assert values == {"accuracy": 1.0, "f1": 0.0, "matthews": 0.0, "auc_mean": None, "loss": 0.0}


def good(task):
    targets = {"b": [0, 1, 1], "c": [0, 1, 2], "m": [[0, 1], [1, 1], [0, 0]], "r": [1, 2, 4]}[task.name]
    return measure(task, np.random.default_rng(3).normal(size=(3, task.outputs)), np.array(targets, float), 1.5)


@pytest.mark.parametrize("task", [BINARY, THREE, TAGS, SCORE], ids=lambda task: task.name)
def test_what_measure_gives_fits_its_own_task_only(task):
    assert [other.name for other in (BINARY, THREE, TAGS, SCORE) if fits(other, good(task))] == [task.name]


@pytest.mark.parametrize(
    ("task", "change"),
    [
        (BINARY, {"examples": 0}),
        (BINARY, {"examples": 4}),
        (BINARY, {"confusion": (4, -1, 0, 0)}),
        (BINARY, {"confusion": (3, 0, 0)}),
        (BINARY, {"loss_sum": float("nan")}),
        (BINARY, {"loss_sum": 10 * LARGEST}),
        (BINARY, {"means": (("auc_mean", 0.5, 0),)}),
        (BINARY, {"means": (("auc_mean", 0.5, 4),)}),
        (BINARY, {"means": (("auc_mean", float("inf"), 3),)}),
        (TAGS, {"confusion": (3, 0, 0, 0, 0, 0, 0, 0)}),
        (SCORE, {"moments": (1.0, 2.0)}),
        (SCORE, {"moments": (float("nan"),) * 5}),
    ],
)
def test_statistics_that_measure_cannot_give_do_not_fit(task, change):
    assert fits(task, good(task)) and not fits(task, replace(good(task), **change))


def test_the_largest_sums_that_fit_still_give_finite_scores():
    huge = TaskStatistics(2**53 - 1, LARGEST, (), (LARGEST, -LARGEST, LARGEST, LARGEST, -LARGEST))
    assert fits(SCORE, huge)
    values = summarise(SCORE, merge([huge] * 1000))
    assert all(value is None or isfinite(value) for value in values.values())


def test_lower_is_better_for_errors_only():
    assert is_better("accuracy", 0.9, 0.8) and not is_better("rmse", 0.9, 0.8) and is_better("loss", 0.1, 0.2)
