"""Results as numbers that are added up: what they say together is what `merge` says of the results themselves."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from math import sqrt

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import ArrayLike

from common.orders import TaskResult
from common.secure.counts import numbers_of, result_of, size_of
from common.secure.ring import add, counts, quantise_counts
from common.statistics import TaskStatistics, merge
from common.targets import OWN_UNITS, TargetUnits
from common.tasks import TASK_KINDS, TaskDefinition

LABELS: dict[str, tuple[tuple[str, ...], ...]] = {
    "classification": (("no", "yes"), ("x", "y", "z"), ("a", "b", "c", "d", "e")),
    "multilabel": (("p",), ("p", "q", "r")),
    "tokens": (("O", "B-x", "I-x", "B-y"), ("noun", "verb")),
    "dense_classification": (("sky", "road", "tree"),),
}


def task_of(kind: str, labels: tuple[str, ...] = ()) -> TaskDefinition:
    found = TASK_KINDS[kind]
    return TaskDefinition(f"{kind}-{len(labels)}", found, labels, False, found.defined_metrics(labels))


TASKS = tuple(task_of(kind, labels) for kind in TASK_KINDS for labels in LABELS.get(kind, ((),)))
SCORE, MAPS = task_of("regression"), task_of("dense_regression")
every_task = pytest.mark.parametrize("task", TASKS, ids=lambda task: task.name)


def measured(task: TaskDefinition, rng: np.random.Generator, rows: int, place: float = 0.0) -> TaskStatistics:
    """Statistics of random rows of a task."""
    kind, size, loss = task.type, task.outputs, float(rng.uniform(0, 3)) * rows
    if kind.asks in ("hidden tokens", "next tokens"):
        answers = torch.tensor(rng.normal(size=(rows, 9))), torch.tensor(rng.integers(9, size=rows))
        return kind.score(task, [answers], np.arange(rows))
    if kind.asks == "words":
        words = np.stack([rng.integers(size, size=rows), np.sort(rng.integers(3, size=rows))], axis=1)
        return kind.measure(task, rng.normal(size=(rows, size)), words, loss)
    if kind.has_units:
        y = place + rng.normal(size=(rows, 4, 4) if kind.per_pixel else rows)
        p = np.expand_dims(y + rng.normal(0.1, 0.5, y.shape), 1)
        return kind.measure(task, p, y, loss)
    if kind.per_pixel:
        classes = rng.integers(size, size=(rows, 4, 4)).astype(float)
        return kind.measure(task, rng.normal(size=(rows, size, 4, 4)), classes, loss)
    targets = rng.integers(2, size=(rows, size)) if not kind.one_label else rng.integers(size, size=rows)
    outputs = np.round(rng.normal(size=(rows, size)))  # equal ones, whose shares lie on the borders of bins
    return kind.measure(task, outputs, targets.astype(float), loss)


def summed(
    task: TaskDefinition, results: Sequence[TaskResult], units: TargetUnits = OWN_UNITS, members: int | None = None
) -> TaskResult:
    """What the sum of some members says, rounded as in a circle."""
    total = quantise_counts([0.0] * size_of(task), 1)
    for result in results:
        add(total, quantise_counts(numbers_of(task, result, units), members or len(results)))
    return result_of(task, counts(total).tolist(), units)


def agree(found: TaskStatistics, wanted: TaskStatistics, members: int) -> None:
    assert (found.examples, found.right, found.labels) == (wanted.examples, wanted.right, wanted.labels)
    assert found.loss_sum == pytest.approx(wanted.loss_sum, abs=members * 2.0**-21)
    assert found.moments == pytest.approx(wanted.moments, rel=1e-5, abs=members * 2.0**-18)
    assert [(name, rows) for name, _, rows in found.means] == [(name, rows) for name, _, rows in wanted.means]
    for (_, mine, _), (_, theirs, _) in zip(found.means, wanted.means, strict=True):
        assert mine == pytest.approx(theirs, abs=members * 2.0**-21)
    assert [name for name, _ in found.sums] == [name for name, _ in wanted.sums]
    for (_, ours), (_, others) in zip(found.sums, wanted.sums, strict=True):
        assert ours == pytest.approx(others, abs=members * 2.0**-20)


sizes_of_members = st.lists(st.integers(1, 30), min_size=1, max_size=5)


@every_task
def test_sums_say_what_the_pooled_statistics_say(task: TaskDefinition) -> None:
    @settings(max_examples=25, deadline=None)
    @given(st.integers(0, 2**32 - 1), sizes_of_members, st.sampled_from([0.0, 1.0, -3.0]))
    def check(seed: int, rows: list[int], place: float) -> None:
        rng = np.random.default_rng(seed)
        parts = [(measured(task, rng, n, place), measured(task, rng, n, place)) for n in rows]
        losses = rng.uniform(0, 3, len(rows)).tolist()
        results = [TaskResult(task.name, 2 * n, loss, *pair) for n, loss, pair in zip(rows, losses, parts, strict=True)]
        found = summed(task, results)
        assert (found.task, found.examples, found.dual) == (task.name, 2 * sum(rows), None)
        assert found.train_loss == pytest.approx(np.average(losses, weights=rows), abs=1e-6)
        for mine, pairs in zip((found.validation, found.personal), zip(*parts, strict=True), strict=True):
            wanted = merge(pairs)
            assert mine is not None
            agree(mine, wanted, len(rows))
            assert task.fits(mine) == task.fits(wanted)
            scores, theirs = task.summarise(mine), task.summarise(wanted)
            assert {name for name, value in scores.items() if value is None} >= {
                n for n, v in theirs.items() if v is None
            }

    check()


@every_task
def test_what_nobody_measured_is_absent_and_what_some_did_counts_alone(task: TaskDefinition) -> None:
    rng = np.random.default_rng(1)
    nothing = TaskResult(task.name, 0, None, None)
    assert summed(task, [nothing, nothing]) == nothing
    scored, trained = measured(task, rng, 7), replace(nothing, examples=5, train_loss=0.5)
    found = summed(task, [replace(nothing, examples=3, validation=scored), trained, nothing])
    assert (found.examples, found.train_loss, found.personal) == (8, 0.5, None)
    assert found.validation is not None and found.validation.examples == scored.examples
    assert task.fits(found.validation)
    assert numbers_of(task, nothing) == [1.0] + [0.0] * (size_of(task) - 1)


@every_task
def test_one_row_fits(task: TaskDefinition) -> None:
    for seed in range(30):
        part = measured(task, np.random.default_rng(seed), 1, 100.0)
        found = summed(task, [TaskResult(task.name, 1, 0.1, part)]).validation
        assert found is not None and task.fits(found) and task.fits(part)


def regression(p: ArrayLike, y: ArrayLike) -> TaskResult:
    column, targets = np.asarray(p, float)[:, None], np.asarray(y, float)
    return TaskResult(SCORE.name, len(targets), 0.0, SCORE.type.measure(SCORE, column, targets, 1.0))


@settings(max_examples=60, deadline=None)
@given(
    st.integers(0, 2**32 - 1),
    sizes_of_members,
    st.sampled_from([0.0, 1e-7, 1.0, 1e3, 1e4]),
    st.sampled_from([0.0, 1e-9, 1e-4, 1.0, 100.0]),
)
def test_whatever_rounding_leaves_of_moments_fits(seed: int, rows: list[int], place: float, size: float) -> None:
    rng, results = np.random.default_rng(seed), []
    for n in rows:
        p, y = (np.float32(place + size * rng.normal(size=n)).astype(float) for _ in range(2))
        results += [regression(*pair) for pair in ((p, y), (y, y), (-y, y), (np.full(n, place), y), (y, y + size))]
    found = summed(SCORE, results).validation
    assert found is not None
    without = replace(found, means=())  # some of the members have no ranks
    assert SCORE.fits(without)
    assert all(value is None or np.isfinite(value) for value in SCORE.summarise(found).values())


def test_a_constant_has_no_correlation() -> None:
    for value in (0.0, 0.1, 3.7, 101.3):
        y = np.linspace(0, 5, 9) + value
        found = summed(SCORE, [regression([value] * 9, y), regression([value] * 9, y)]).validation
        assert found is not None and SCORE.summarise(found)["pearson"] is None


def test_units_keep_what_lies_far_from_zero_and_what_is_small() -> None:
    rng = np.random.default_rng(5)
    for mean, scale in ((101325.0, 500.0), (-1e6, 5.0), (0.0, 1e-6), (1e12, 1e9)):
        results = []
        for n in (40, 60):
            y = mean + scale * rng.normal(size=n)
            results.append(regression(y + 0.3 * scale * rng.normal(size=n), y))
        wanted = merge([result.validation for result in results if result.validation is not None])
        task = replace(SCORE, metrics=("pearson", "rmse"))
        plain = [
            replace(found, validation=replace(found.validation, sums=()))
            for found in results
            if found.validation is not None
        ]
        mine = summed(task, plain, TargetUnits(mean + 0.1 * scale, scale)).validation
        assert mine is not None
        assert mine.moments == pytest.approx(wanted.moments, rel=1e-5)
        assert task.fits(mine)


def test_without_units_what_does_not_fit_is_refused_and_errors_stay_those_of_the_rows() -> None:
    y = np.linspace(0, 1000, 50)
    found = summed(SCORE, [regression(y + 0.01, y)] * 3).validation
    assert found is not None and SCORE.summarise(found)["rmse"] == pytest.approx(0.01, rel=1e-3)
    far = numbers_of(SCORE, regression(y + 1e7, y))
    with pytest.raises(ValueError, match="does not fit"):
        quantise_counts(far, 3)
    for place in (1e60, 1e160):
        numbers = numbers_of(
            SCORE, TaskResult("r", 1, 0.0, TaskStatistics(2, 0.0, moments=(place,) * 6, sums=(("absolute", (0.0,)),)))
        )
        with pytest.raises(ValueError, match="does not fit"):
            quantise_counts(numbers, 1)


def test_means_count_the_rows_that_have_one() -> None:
    task = task_of("classification", ("no", "yes"))
    rng = np.random.default_rng(2)
    both = TaskResult(task.name, 0, None, task.type.measure(task, rng.normal(size=(6, 2)), np.arange(6.0) % 2, 0.0))
    one = TaskResult(task.name, 0, None, task.type.measure(task, rng.normal(size=(5, 2)), np.zeros(5), 0.0))
    found = summed(task, [both, one]).validation
    assert found is not None and both.validation is not None and found.examples == 11
    ((_, value, rows),) = both.validation.means
    ((name, mine, counted),) = found.means
    assert (name, counted) == ("auc_mean", rows) and mine == pytest.approx(value, abs=1e-6)


def test_results_of_another_task_are_refused() -> None:
    binary, three = (task_of("classification", labels) for labels in LABELS["classification"][:2])
    result = TaskResult("x", 1, 0.0, replace(measured(binary, np.random.default_rng(0), 5), sums=()))
    plain = replace(three, metrics=("accuracy",))
    with pytest.raises(ValueError, match="are not the"):
        numbers_of(plain, result)
    with pytest.raises(ValueError, match="0 numbers are not the"):
        result_of(binary, [])


def test_the_size_follows_from_the_definition() -> None:
    assert size_of(task_of("masked_lm")) == 4 + 2 * 3
    assert size_of(replace(SCORE, metrics=("pearson",))) == 4 + 2 * (3 + 5 + 2)
    assert size_of(replace(MAPS, metrics=MAPS.metrics[:1])) == 4 + 2 * (3 + 5)
    assert size_of(replace(task_of("classification", ("a", "b", "c")), metrics=("f1",))) == 4 + 2 * (3 + 9)


def test_many_members_come_to_the_same_within_the_stated_error() -> None:
    rng, rows = np.random.default_rng(9), 300
    parts = [regression(y + rng.normal(size=8), y) for y in 2 + rng.normal(size=(rows, 8))]
    wanted = merge([part.validation for part in parts if part.validation is not None])
    found = summed(SCORE, parts).validation
    assert found is not None
    bound = (2 + 6 * 2.5) * rows * 2.0**-21
    assert found.moments[2:] == pytest.approx(wanted.moments[2:], abs=bound)
    assert sqrt(found.moments[5] / found.examples) == pytest.approx(SCORE.summarise(wanted)["rmse"], rel=1e-5)
