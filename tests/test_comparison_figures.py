"""The figures of a comparison, by hand."""

import pytest

from server.reporting.values import CosineMatrix
from simulation.comparison.figures import (
    by_average_linkage,
    compare,
    gain,
    is_negative_transfer,
    mean_agreement,
    relative_gain,
    spread,
)


def test_gains_are_positive_where_a_score_is_better():
    assert gain("accuracy", 0.75, 0.5) == 0.25
    assert gain("rmse", 0.75, 0.5) == -0.25
    assert gain("accuracy", None, 0.5) is None


def test_the_spread_is_the_sample_standard_deviation_of_what_is_defined():
    """0.5, 0.7, 0.9: mean 0.7, deviations -0.2, 0, 0.2, so sqrt(0.08 / 2) = 0.2."""
    found = spread([0.5, None, 0.7, 0.9])
    assert (found.values, found.mean, found.sd) == ((0.5, None, 0.7, 0.9), 0.7, 0.2)
    assert spread([0.5]).sd is None and spread([None]).mean is None


def test_the_delta_of_fmtl_bench():
    """accuracy 0.6 against 0.5: +0.2; rmse 1.5 against 2: (-1)(1.5 - 2) / 2 = +0.25; the mean is 0.225.

    With the second seed -0.2 and -0.5: -0.35. Mean -0.0625. Matthews against 0 has no ratio and is left out.
    """
    metrics = {"a": "accuracy", "b": "rmse", "c": "matthews"}
    scores = {"a": [0.6, 0.4], "b": [1.5, 3.0], "c": [0.1, 0.2]}
    alone = {"a": [0.5, 0.5], "b": [2.0, 2.0], "c": [0.3, 0.0]}
    found = compare(metrics, scores, alone)
    assert found.delta.values == (0.225, -0.35) and found.delta.mean == -0.0625
    assert found.left_out == ("c",)
    assert found.tasks["c"].gain.values == (-0.2, 0.2) and found.tasks["c"].relative.mean is None
    assert compare(metrics, scores, alone, ["b"]).delta.values == (0.2, -0.2)
    assert compare({"c": "matthews"}, {"c": [0.5]}, {"c": [-0.1]}).delta.mean is None


def test_the_mean_gain_is_that_of_main_tasks_without_units():
    """Gains +0.1, -0.1 of a and -0.2, +0.2 of c: their means are -0.05 and +0.05. With an rmse there is none."""
    metrics = {"a": "accuracy", "c": "matthews"}
    scores, alone = {"a": [0.6, 0.4], "c": [0.1, 0.2]}, {"a": [0.5, 0.5], "c": [0.3, 0.0]}
    assert compare(metrics, scores, alone).means["all"].gain.values == (-0.05, 0.05)
    assert compare(metrics, scores, alone, ["c"]).means["all"].gain.values == (0.1, -0.1)
    with_error = compare({**metrics, "b": "rmse"}, {**scores, "b": [1, 1]}, {**alone, "b": [1, 2]})
    assert with_error.means["all"].gain.values == ()


def test_means_have_weights_and_the_worst_task_a_name():
    """Gains +0.1 of a and -0.2 of c: (3 x 0.1 - 0.2) / 4 = 0.025."""
    metrics, means = {"a": "accuracy", "c": "matthews"}, {"heavy": {"a": 3.0, "c": 1.0}, "one": {"a": 1.0}}
    found = compare(metrics, {"a": [0.6], "c": [0.1]}, {"a": [0.5], "c": [0.3]}, (), means)
    assert {name: mean.gain.values for name, mean in found.means.items()} == {"heavy": (0.025,), "one": (0.1,)}
    assert found.worst == "c"
    assert compare(metrics, {"a": [0.6], "c": [0.1]}, {"a": [0.5], "c": [0.3]}, ["c"]).worst == "a"


def test_a_ratio_needs_a_base():
    assert relative_gain("accuracy", 0.25, 0.5) == -0.5
    assert relative_gain("rmse", 3.0, 2.0) == -0.5
    assert [relative_gain("matthews", 0.5, base) for base in (0.0, -0.5, 0.049, None)] == [None] * 4


@pytest.mark.parametrize(
    ("metric", "gain", "within", "flag"),
    [
        ("accuracy", -0.03, (-0.05, -0.001), True),
        ("accuracy", -0.03, (-0.06, 0.001), False),  # the interval reaches above zero
        ("accuracy", -0.009, (-0.015, -0.001), False),  # no more than a point
        ("rmse", -0.021, (-0.03, -0.01), True),  # more than one percent of 2.0
        ("rmse", -0.019, (-0.03, -0.01), False),
        ("accuracy", None, (-0.05, -0.001), False),
        ("accuracy", -0.03, None, False),
    ],
)
def test_negative_transfer_is_flagged_beyond_the_interval_and_a_point(metric, gain, within, flag):
    assert is_negative_transfer(metric, gain, 2.0, within) is flag


def test_tasks_that_agree_stand_together():
    """a, c agree (0.9) and b, d (0.8); between these groups nothing does but c and d a little, so these two meet."""
    high = {frozenset("ac"): 0.9, frozenset("bd"): 0.8, frozenset("cd"): 0.1}
    similarity = {(x, y): 1.0 if x == y else high.get(frozenset(x + y), 0.0) for x in "abcd" for y in "abcd"}
    order = by_average_linkage("abcd", similarity)
    assert "".join(order) in ("acdb", "bdca")


def test_cosines_are_averaged_pair_by_pair():
    first = CosineMatrix(("x", "y"), ((1.0, 0.2), (0.2, 1.0)))
    second = CosineMatrix(("y", "x"), ((1.0, 0.4), (0.4, 1.0)))
    found = mean_agreement([first, second])
    assert found is not None and set(found.tasks) == {"x", "y"}
    assert found.values == ((1.0, 0.3), (0.3, 1.0))
    assert mean_agreement([]) is None
    apart = CosineMatrix(("x", "z"), ((1.0, 0.0), (0.0, 1.0)))
    assert mean_agreement([first, apart]) is None  # y and z never met
