from dataclasses import replace
from itertools import pairwise
from math import isfinite, sqrt

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.stats import pearsonr, spearmanr

from common.statistics import LARGEST, LARGEST_LOSS, TaskStatistics, merge
from common.tasks import TASK_KINDS, TaskDefinition, is_better

BINARY = TaskDefinition("b", TASK_KINDS["classification"], ("no", "yes"), False, TASK_KINDS["classification"].metrics)
THREE = TaskDefinition("c", TASK_KINDS["classification"], ("x", "y", "z"), False, TASK_KINDS["classification"].metrics)
TAGS = TaskDefinition("m", TASK_KINDS["multilabel"], ("p", "q"), False, TASK_KINDS["multilabel"].metrics)
SCORE = TaskDefinition("r", TASK_KINDS["regression"], (), True, TASK_KINDS["regression"].metrics)


def one_hot(predicted, size):
    return np.eye(size)[np.asarray(predicted)]


def scores(task, outputs, targets, loss_sum=0.0):
    return task.summarise(task.type.measure(task, np.asarray(outputs, float), np.asarray(targets, float), loss_sum))


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
        merged = merge([task.type.measure(task, outputs[a:b], targets[a:b], float(b - a)) for a, b in parts])
        pooled = task.type.measure(task, outputs, targets, float(rows))
        exact = ("accuracy", "f1", "matthews", "loss")
        assert {k: task.summarise(merged)[k] for k in exact} == {k: task.summarise(pooled)[k] for k in exact}
        assert task.summarise(merged)["accuracy"] == np.mean(outputs.argmax(axis=1) == targets)


@settings(max_examples=60, deadline=None)
@given(split_rows(), st.sampled_from([(0, 1), (3, 1), (1100, 1), (273.15, 20), (101325, 500), (-1e6, 5)]))
def test_merged_moments_give_pearson_and_rmse_of_pooled_predictions(case, place):
    rng, rows, parts = case
    y = rng.normal(*place, rows)
    p = y + rng.normal(0.1, 0.5, rows) * place[1]
    values = SCORE.summarise(merge([SCORE.type.measure(SCORE, column(p[a:b]), y[a:b], 0.0) for a, b in parts]))
    pooled = scores(SCORE, column(p), y)
    assert values["rmse"] == pytest.approx(sqrt(np.mean((p - y) ** 2)), rel=1e-9)
    if rows > 2:
        assert values["pearson"] == pytest.approx(pooled["pearson"], abs=1e-9)
        assert values["pearson"] == pytest.approx(pearsonr(p, y).statistic, abs=1e-9)


@settings(max_examples=30, deadline=None)
@given(split_rows())
def test_merging_gives_the_same_numbers_in_any_order(case):
    rng, rows, parts = case
    p, y = rng.normal(1e3, 1, rows), rng.normal(1e3, 1, rows)
    found = [SCORE.type.measure(SCORE, column(p[a:b]), y[a:b], rng.uniform(0, 9)) for a, b in parts]
    order = rng.permutation(len(found))
    assert merge(found) == merge([found[at] for at in order])


def test_the_error_is_that_of_the_rows_even_where_it_is_tiny_against_the_scores():
    y = np.linspace(0, 1e6, 500)
    assert scores(SCORE, column(y + 1e-4), y)["rmse"] == pytest.approx(1e-4, rel=1e-5)


def test_scores_that_need_the_rows_are_means_weighted_by_examples():
    parts = [
        TaskStatistics(1, 0, 1, (1, 1, 1, 0, 0, 0), (), (("auc_mean", 0.5, 1),)),
        TaskStatistics(2, 0, 2, (2, 2, 2, 0, 0, 0)),
        TaskStatistics(3, 0, 3, (3, 3, 3, 0, 0, 0), (), (("auc_mean", 0.9, 3),)),
    ]
    assert BINARY.summarise(merge(parts))["auc_mean"] == pytest.approx((0.5 + 2.7) / 4)


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


def test_classes_that_are_nowhere_are_not_in_the_mean():
    """As f1_score(average="macro"), whose labels are those of y_true and y_pred: of x and y, 2/3 and 4/5."""
    values = scores(THREE, one_hot([0, 1, 1, 1], 3), [0, 0, 1, 1])
    assert values["f1"] == pytest.approx((2 / 3 + 4 / 5) / 2)
    # predicted once and never true: it counts, as 0
    values = scores(THREE, one_hot([0, 1, 1, 2], 3), [0, 0, 1, 1])
    assert values["f1"] == pytest.approx((2 / 3 + 1 / 2 + 0) / 3)


@settings(max_examples=60, deadline=None)
@given(split_rows(), st.integers(2, 6))
def test_counts_by_label_tell_as_much_as_the_confusion_matrix(case, size):
    rng, rows, parts = case
    task = replace(THREE, labels=tuple(map(str, range(size))))
    outputs, targets = rng.normal(size=(rows, size)), rng.integers(size, size=rows).astype(float)
    parts = [task.type.measure(task, outputs[a:b], targets[a:b], 0.0) for a, b in parts]
    assert all(task.fits(part) for part in parts)
    found = task.summarise(merge(parts))
    table = np.zeros((size, size))
    np.add.at(table, (targets.astype(int), outputs.argmax(axis=1)), 1)
    true, said, hits = table.sum(axis=1), table.sum(axis=0), np.trace(table)
    spread = (rows**2 - said @ said) * (rows**2 - true @ true)
    assert found["accuracy"] == hits / rows
    assert found["matthews"] == pytest.approx((hits * rows - true @ said) / sqrt(spread) if spread else 0.0, abs=1e-12)


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
    statistics = TAGS.type.measure(TAGS, np.array(outputs, float), np.array(targets, float), 0.0)
    assert statistics.labels == (1, 2, 2, 2, 3, 2)  # (hits, true, predicted) of p, then of q
    values = TAGS.summarise(statistics)
    assert values["f1_micro"] == pytest.approx(6 / 9) and values["label_accuracy"] == 5 / 8
    assert values["f1_macro"] == pytest.approx((2 / 4 + 4 / 5) / 2)
    assert values["accuracy"] == 1 / 4  # only the first row is right as a whole


def test_a_label_that_is_nowhere_counts_as_zero_in_a_multilabel_mean():
    """As f1_score(average="macro") of indicators, whose labels are all columns."""
    values = scores(TAGS, [[1, -1], [1, -1]], [[1, 0], [1, 0]])
    assert values == {"f1_micro": 1.0, "f1_macro": 0.5, "accuracy": 1.0, "label_accuracy": 1.0, "loss": 0.0}


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


@pytest.mark.parametrize("value", [0.0, 0.1, 3.7, 1e6, 101325.1])
@pytest.mark.parametrize("rows", [1, 2, 7, 100])
def test_constant_predictions_have_no_correlation_instead_of_nan(value, rows):
    targets = np.linspace(0, 5, rows)
    values = scores(SCORE, column([value] * rows), targets)
    assert values["pearson"] is None and values["spearman_mean"] is None and isfinite(values["rmse"])


def test_scores_of_one_class_are_never_nan():
    values = scores(BINARY, one_hot([0, 0], 2), [0, 0])
    assert {name: values[name] for name in ("accuracy", "f1", "matthews", "loss")} == {
        "accuracy": 1.0,
        "f1": 0.0,
        "matthews": 0.0,
        "loss": 0.0,
    }
    assert values["auc_mean"] is values["auc"] is values["pr_auc"] is None


def good(task):
    targets = {"b": [0, 1, 1], "c": [0, 1, 2], "m": [[0, 1], [1, 1], [0, 0]], "r": [1, 2, 4]}[task.name]
    return task.type.measure(
        task, np.random.default_rng(3).normal(size=(3, task.outputs)), np.array(targets, float), 1.5
    )


@pytest.mark.parametrize("task", [BINARY, THREE, TAGS, SCORE], ids=lambda task: task.name)
def test_what_measure_gives_fits_its_own_task_only(task):
    assert [other.name for other in (BINARY, THREE, TAGS, SCORE) if other.fits(good(task))] == [task.name]


@pytest.mark.parametrize(
    ("task", "change"),
    [
        (BINARY, {"examples": 0}),
        (BINARY, {"examples": 4}),
        (BINARY, {"right": 4}),
        (BINARY, {"labels": (4, 4, 4, -1, -1, -1)}),
        (BINARY, {"labels": (3, 3, 3)}),
        (BINARY, {"right": 2, "labels": (1, 2, 1, 1, 2, 1)}),  # sums of true classes are not the rows
        (BINARY, {"right": 0, "labels": (0, 1, 1, 0, 2, 2)}),  # two of the second class went to a first said once
        (THREE, {"right": 1, "labels": (1, 2, 3, 0, 1, 0, 0, 0, 0)}),  # one of the two misses goes to its own class
        (BINARY, {"loss_sum": float("nan")}),
        (BINARY, {"loss_sum": -1.0}),
        (BINARY, {"loss_sum": 4 * LARGEST_LOSS}),
        (BINARY, {"means": (("auc_mean", 0.5, 0),)}),
        (BINARY, {"means": (("auc_mean", 0.5, 2),)}),
        (BINARY, {"means": (("auc_mean", 0.5, 4),)}),
        (BINARY, {"means": (("auc_mean", 1.5, 3),)}),
        (BINARY, {"means": (("auc_mean", -0.1, 3),)}),
        (BINARY, {"means": (("auc_mean", float("inf"), 3),)}),
        (BINARY, {"means": (("auc_mean", float("nan"), 3),)}),
        (BINARY, {"means": (("accuracy", 0.5, 3),)}),
        (BINARY, {"means": (("auc_mean", 0.5, 3), ("auc_mean", 0.5, 3))}),
        (THREE, {"means": (("auc_mean", 0.5, 3),)}),
        (TAGS, {"labels": (3, 3, 3, 0, 0, 0, 0, 0)}),
        (TAGS, {"right": 3, "labels": (1, 2, 2, 2, 2, 2)}),  # all rows right, and a label wrong
        (TAGS, {"right": 0, "labels": (1, 1, 1, 2, 2, 2)}),  # no row right, and no label wrong
        (TAGS, {"right": 0, "labels": (0, 2, 2, 2, 2, 2)}),  # of three rows two true, two predicted: one must hit
        (SCORE, {"right": 1}),
        (SCORE, {"moments": (1.0, 2.0)}),
        (SCORE, {"moments": (float("nan"),) * 6}),
        (SCORE, {"moments": (0.0, 0.0, -1.0, 1.0, 0.0, 0.0)}),
        (SCORE, {"moments": (0.0, 0.0, 1.0, 1.0, 1.001, 0.002)}),  # a correlation above one
        (SCORE, {"moments": (0.0, 0.0, 1.0, 1.0, 0.0, 1.0)}),  # the error must be two
        (SCORE, {"moments": (10 * LARGEST, 0.0, 0.0, 0.0, 0.0, 0.0)}),
        (SCORE, {"means": (("spearman_mean", 1e100, 3),)}),
        (SCORE, {"means": (("auc_mean", 0.5, 3),)}),
    ],
)
def test_statistics_that_measure_cannot_give_do_not_fit(task, change):
    assert task.fits(good(task)) and not task.fits(replace(good(task), **change))


@settings(max_examples=80, deadline=None)
@given(
    st.integers(0, 2**32 - 1),
    st.integers(1, 50),
    st.sampled_from([0.0, 1e-9, 1.0, 1e3, 1e12]),
    st.sampled_from([0.0, 1e-6, 1.0, 1e6, 1e19]),
)
def test_whatever_measure_gives_fits(seed, rows, place, size):
    rng = np.random.default_rng(seed)
    p, y = (np.float32(place + size * rng.normal(size=rows)).astype(float) for _ in range(2))
    for predictions in (p, y, np.full(rows, place), y + 1e-7 * abs(y)):
        assert SCORE.fits(SCORE.type.measure(SCORE, column(predictions), y, 1.0))
    tags = (rng.random((rows, 2)) < rng.random(2)).astype(float)
    assert TAGS.fits(TAGS.type.measure(TAGS, rng.normal(size=(rows, 2)), tags, 1.0))


def test_the_largest_sums_that_fit_still_give_finite_scores():
    huge = TaskStatistics(2**53 - 1, LARGEST, moments=(LARGEST, -LARGEST, LARGEST, LARGEST, -LARGEST, LARGEST))
    values = SCORE.summarise(merge([huge, replace(huge, moments=huge.moments[1:] + huge.moments[:1])] * 500))
    assert all(value is None or isfinite(value) for value in values.values())


def test_lower_is_better_for_errors_only():
    assert is_better("accuracy", 0.9, 0.8) and not is_better("rmse", 0.9, 0.8) and is_better("loss", 0.1, 0.2)
