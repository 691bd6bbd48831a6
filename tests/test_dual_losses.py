"""Losses in the dual: conjugates by their definition, steps against every other value, bounds against real moves."""

from __future__ import annotations

import math

import numpy as np
import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st
from scipy.optimize import minimize_scalar

from common.methods.choice import parameters_of
from common.methods.dual_losses import (
    DUAL_LOSSES,
    DualLoss,
    HingeLoss,
    LogisticLoss,
    SmoothedHingeLoss,
    SquaredLoss,
)

LOSSES = [HingeLoss(), SmoothedHingeLoss(), SmoothedHingeLoss(smoothing=1.0), SquaredLoss(), LogisticLoss()]
each_loss = pytest.mark.parametrize("loss", LOSSES, ids=repr)
numbers = st.floats(-20.0, 20.0)


def one(value: float) -> np.ndarray:
    return np.array([value])


def conjugate(loss: DualLoss, alpha: float, target: float, weight: float) -> float:
    return float(loss.weighted_conjugates(one(alpha), one(target), one(weight))[0])


def target_of(loss: DualLoss, number: float) -> float:
    return math.copysign(1.0, number) if loss.for_classes else number


def objective(loss: DualLoss, new: float, score: float, target: float, weight: float, old: float, bend: float) -> float:
    return conjugate(loss, new, target, weight) + score * (new - old) + bend * (new - old) ** 2 / 2.0


def test_losses_by_hand() -> None:
    scores, targets = np.array([2.0, 0.75, 0.0, -1.0]), np.array([1.0, 1.0, -1.0, 1.0])
    assert HingeLoss().losses(scores, targets) == pytest.approx([0.0, 0.25, 1.0, 2.0])
    assert SmoothedHingeLoss().losses(scores, targets) == pytest.approx([0.0, 0.0625, 0.75, 1.75])
    assert SquaredLoss().losses(scores, targets) == pytest.approx([0.5, 0.03125, 0.5, 2.0])
    assert LogisticLoss().losses(scores, targets)[2] == pytest.approx(math.log(2.0))
    assert [row.for_classes for row in DUAL_LOSSES.values()] == [True, True, False, True]
    assert {name: list(parameters_of(row)) for name, row in DUAL_LOSSES.items()}["smoothed_hinge"] == ["smoothing"]


@each_loss
@pytest.mark.parametrize("weight", [1.0, 0.3, 4.0])
@pytest.mark.parametrize("share", [0.02, 0.5, 0.9])
@pytest.mark.parametrize("side", [-1.0, 1.0])
def test_a_conjugate_is_its_supremum(loss: DualLoss, weight: float, share: float, side: float) -> None:
    """(c l)*(-a) = sup over z of -a z - c l(z)."""
    alpha, target = side * share * weight, side

    def negated(score: float) -> float:
        return alpha * score + weight * float(loss.losses(one(score), one(target))[0])

    found = minimize_scalar(negated, bounds=(-30.0, 30.0), method="bounded", options={"xatol": 1e-10})
    assert conjugate(loss, alpha, target, weight) == pytest.approx(-found.fun, abs=1e-7)


@each_loss
def test_outside_of_its_domain_a_conjugate_is_infinite(loss: DualLoss) -> None:
    assert conjugate(loss, 0.0, 1.0, 0.0) == 0.0
    assert conjugate(loss, 0.1, 1.0, 0.0) == math.inf
    if loss.for_classes:
        assert conjugate(loss, 2.0, 1.0, 2.0) < math.inf
        assert [conjugate(loss, alpha, 1.0, 2.0) for alpha in (2.001, -0.001)] == [math.inf, math.inf]
    else:
        assert conjugate(loss, -1e6, 1.0, 2.0) < math.inf


@each_loss
@given(numbers, numbers, st.floats(0.01, 5.0), st.floats(0.0, 1.0), st.floats(0.0, 1.0), st.floats(1e-9, 1e9))
def test_a_step_is_better_than_any_other(
    loss: DualLoss, score: float, number: float, weight: float, old: float, other: float, bend: float
) -> None:
    target = target_of(loss, number)
    old, other = target * weight * old, target * weight * other
    new = loss.step(score, target, weight, old, bend, loss.smoothing)
    best = objective(loss, new, score, target, weight, old, bend)
    assert best < math.inf
    nearby = (new + 1e-4, new - 1e-4, new * (1.0 - 1e-3), old, other)
    scale = 1.0 + abs(best) + abs(score * old) + bend * old * old
    assert all(best <= objective(loss, value, score, target, weight, old, bend) + 1e-12 * scale for value in nearby)


@given(numbers, st.floats(0.01, 5.0), st.floats(0.0, 1.0), st.floats(1e-9, 1e9))
@example(-11.0, 4.0, 0.00390625, 4.0)  # Newton's steps alone jump between 9.3 and -4.9
def test_the_logistic_step_solves_its_equation(score: float, weight: float, old: float, bend: float) -> None:
    new = LogisticLoss().step(score, 1.0, weight, weight * old, bend, 0.0) / weight
    if 1e-6 < new < 1.0 - 1e-6:
        slope = 1.0 / (new * (1.0 - new)) + bend * weight
        value = math.log(new / (1.0 - new)) + score + bend * weight * (new - old)
        assert abs(value) / slope <= 1e-12


@each_loss
def test_rows_of_no_weight_or_of_zeros_take_a_value_of_the_domain(loss: DualLoss) -> None:
    assert loss.step(0.7, 1.0, 0.0, 0.3, 2.0, loss.smoothing) == 0.0
    new = loss.step(0.0, -1.0, 2.0, -0.3, 0.0, loss.smoothing)  # x = 0: the loss is l(0, y) whatever the model is
    assert conjugate(loss, new, -1.0, 2.0) == pytest.approx(-2.0 * loss.losses(one(0.0), one(-1.0))[0])


@each_loss
@settings(deadline=None)
@given(st.integers(0, 10**6), st.floats(0.0, 10.0), st.booleans())
def test_a_silent_task_loses_no_more_than_the_bound(loss: DualLoss, seed: int, distance: float, along: bool) -> None:
    rng = np.random.default_rng(seed)
    x, w, c = rng.normal(size=(8, 3)), rng.normal(size=3), rng.uniform(0.0, 3.0, 8) * (rng.random(8) < 0.8)
    y = np.sign(rng.normal(size=8)) if loss.for_classes else rng.normal(size=8)
    move = -(y * c) @ x if along else rng.normal(size=3)
    move *= distance / max(float(np.linalg.norm(move)), 1e-300)
    before, after = (float(c @ loss.losses(x @ model, y)) for model in (w, w + move))
    norms = np.linalg.norm(x, axis=1)
    bound = loss.silent(before, float(np.linalg.norm(move)), float(c @ norms), float(c @ norms**2))
    assert after <= bound * (1.0 + 1e-12) + 1e-12
    assert loss.silent(before, 0.0, float(c @ norms), float(c @ norms**2)) == pytest.approx(before)


def test_silent_bounds_are_met_by_the_worst_move() -> None:
    """One row x = (3, 4), away from its target: squared 0.5 (1 + 5 d)^2, hinge 1 + 5 d."""
    assert SquaredLoss().silent(0.5, 2.0, 5.0, 25.0) == pytest.approx(0.5 * (1.0 + 5.0 * 2.0) ** 2)
    assert HingeLoss().silent(1.0, 2.0, 5.0, 25.0) == pytest.approx(11.0)
    smooth = LogisticLoss()  # a short move: the second bound; a long one: the first
    assert smooth.silent(0.01, 0.01, 5.0, 25.0) == pytest.approx((0.1 + 0.01 * math.sqrt(25.0 / 8.0)) ** 2)
    assert smooth.silent(0.01, 10.0, 5.0, 25.0) == pytest.approx(50.01)
