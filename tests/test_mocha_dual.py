"""MOCHA as a whole, in one process: published optima, other people's solvers, and its certificate under trouble."""

from __future__ import annotations

import os
from collections.abc import Iterator
from itertools import pairwise
from pathlib import Path

import numpy as np
import pytest
from numpy.typing import NDArray
from sklearn.linear_model import LogisticRegression
from sklearn.svm import LinearSVC

from client.training.design import DesignMatrix
from client.training.sdca import Subproblem, measure, solve
from common.methods.dual_losses import DUAL_LOSSES, DualLoss, HingeLoss, LogisticLoss, SquaredLoss
from tests.mocha_twin import Twin

Array = NDArray[np.float64]
Tasks = tuple[list[Array], list[Array]]
each_loss = pytest.mark.parametrize("loss", [row() for row in DUAL_LOSSES.values()], ids=list(DUAL_LOSSES))


def tasks_of(loss: DualLoss, tasks: int = 4, rows: int = 30, seed: int = 0, shared: float = 0.5) -> Tasks:
    """Tasks of different sizes with three features; their true models share a part."""
    rng = np.random.default_rng(seed)
    common, xs, ys = rng.normal(size=3), [], []
    for number in range(tasks):
        x = rng.normal(size=(rows + 3 * number, 3))
        z = x @ (shared * common + (1.0 - shared) * rng.normal(size=3)) + 0.5 * rng.normal(size=len(x))
        xs.append(x)
        ys.append(np.where(z > 0.0, 1.0, -1.0) if loss.for_classes else z)
    return xs, ys


def coupled(tasks: int, share: float) -> Array:
    """`share` of 11'/m and the rest of I, with trace 1."""
    return (share * np.ones((tasks, tasks)) + (1.0 - share) * np.eye(tasks)) / tasks


def learned(_: int, w: Array) -> Array:
    values, vectors = np.linalg.eigh(w.T @ w)
    root = vectors @ np.diag(np.sqrt(np.maximum(values, 1e-7))) @ vectors.T
    return np.asarray(root / np.trace(root))


def troubled(tasks: int, seed: int) -> Iterator[Array]:
    """Budgets uniform in [0, 1], and 30 % of the tasks out."""
    rng = np.random.default_rng(seed)
    while True:
        yield rng.random(tasks) * (rng.random(tasks) >= 0.3)


# ---- published optima ----


def land_mines() -> Tasks:
    """29 tasks; per task, row i (1-based) is for training unless i mod 4 == 0."""
    path = Path(os.environ.get("FEDMTL_TEST_DATA", "")) / "mocha_small" / "all.npz"
    if not path.is_file():
        pytest.skip("needs FEDMTL_TEST_DATA/mocha_small/all.npz")
    with np.load(path) as data:
        task, x, y = data["task"], data["x"].astype(np.float64), data["y"].astype(np.float64)
    xs, ys = [], []
    for number in np.unique(task):
        mine, target = x[task == number], y[task == number]
        train = np.arange(1, len(target) + 1) % 4 != 0
        xs.append(mine[train])
        ys.append(target[train])
    return xs, ys


@pytest.mark.parametrize(("share", "strength", "optimum"), [(0.0, 0.1, 27.3569006204), (29 / 58, 0.01, 21.9735207474)])
def test_the_published_optimum_is_reached(share: float, strength: float, optimum: float) -> None:
    """I/29, and I/29 + 11'/29^2 with trace 1 (sigma' = 1.9333)."""
    sigma = np.eye(29) / 29 + (np.ones((29, 29)) / 29**2 if share else 0.0)
    twin = Twin.of(*land_mines(), HingeLoss(), strength, sigma / np.trace(sigma))
    assert twin.problems[0].coupling == pytest.approx(1.9333333333 if share else 1.0)
    assert twin.certificate().primal == 29.0
    past = twin.run(600, passes=lambda _: [5.0] * 29, stop_at_gap=1e-8)
    assert all(found.gap >= -1e-9 for found in past)
    assert past[-1].gap < 1e-6
    assert past[-1].primal == pytest.approx(optimum, abs=1e-6)


# ---- other people's solvers ----


def test_independent_tasks_are_support_vector_machines_of_their_own() -> None:
    """Sigma = I/m: every task is mean hinge + (lambda m / 2) ||w||^2, so C = 1 / (n lambda m)."""
    (xs, ys), strength = tasks_of(HingeLoss()), 0.02
    twin = Twin.of(xs, ys, HingeLoss(), strength, np.eye(4) / 4)
    twin.run(400, passes=lambda _: [10.0] * 4, stop_at_gap=1e-11)
    for t, (x, y) in enumerate(zip(xs, ys, strict=True)):
        c = 1.0 / (len(y) * strength * 4)
        svm = LinearSVC(loss="hinge", C=c, fit_intercept=False, tol=1e-10, max_iter=10**6, random_state=0)
        assert twin.w[:, t] == pytest.approx(svm.fit(x, y).coef_[0], abs=1e-5)


def test_independent_logistic_tasks_are_logistic_regressions() -> None:
    (xs, ys), strength = tasks_of(LogisticLoss()), 0.02
    twin = Twin.of(xs, ys, LogisticLoss(), strength, np.eye(4) / 4)
    twin.run(100, passes=lambda _: [10.0] * 4, stop_at_gap=1e-13)
    for t, (x, y) in enumerate(zip(xs, ys, strict=True)):
        model = LogisticRegression(C=1.0 / (len(y) * strength * 4), fit_intercept=False, tol=1e-12, solver="newton-cg")
        assert twin.w[:, t] == pytest.approx(model.fit(x, y).coef_[0], abs=1e-6)


def closed_form(xs: list[Array], ys: list[Array], strength: float, sigma: Array) -> Array:
    """W (d, m) of the squared loss: X_t'(X_t w_t - y_t) / n_t + lambda sum_s Omega_ts w_s = 0 for all t at once."""
    m, d = len(xs), xs[0].shape[1]
    matrix = strength * np.kron(np.linalg.inv(sigma), np.eye(d))
    for t, x in enumerate(xs):
        matrix[t * d : t * d + d, t * d : t * d + d] += x.T @ x / len(x)
    right = np.concatenate([x.T @ y / len(x) for x, y in zip(xs, ys, strict=True)])
    return np.asarray(np.linalg.solve(matrix, right).reshape(m, d).T)


@pytest.mark.parametrize("share", [0.0, 0.8, -0.2])
def test_the_squared_loss_has_the_closed_form(share: float) -> None:
    (xs, ys), sigma = tasks_of(SquaredLoss()), coupled(4, share)
    twin = Twin.of(xs, ys, SquaredLoss(), 0.05, sigma / np.trace(sigma))
    past = twin.run(500, passes=lambda _: [3.0] * 4, stop_at_gap=1e-14)
    assert twin.w == pytest.approx(closed_form(xs, ys, 0.05, sigma / np.trace(sigma)), abs=1e-6)
    assert past[-1].gap < 1e-10


def test_the_strength_goes_from_everybodys_own_model_to_none_and_ones_to_a_pooled_one() -> None:
    xs, ys = tasks_of(SquaredLoss())
    own = np.stack([np.linalg.lstsq(x, y, rcond=None)[0] for x, y in zip(xs, ys, strict=True)], axis=1)
    errors = []
    for strength in (4e-3, 4e-4):
        twin = Twin.of(xs, ys, SquaredLoss(), strength, np.eye(4) / 4)
        twin.run(100, passes=lambda _: [50.0] * 4, stop_at_gap=1e-14)
        errors.append(float(np.abs(twin.w - own).max()))
    assert errors[1] == pytest.approx(errors[0] / 10.0, rel=0.1)
    assert errors[1] < 3e-3
    ones = Twin.of(xs, ys, SquaredLoss(), 0.05, np.ones((4, 4)) / 4)  # sum_t f_t(w) + (lambda m / 2) ||w||^2
    ones.run(500, passes=lambda _: [3.0] * 4, stop_at_gap=1e-14)
    gram = sum(x.T @ x / len(x) for x in xs) + 0.05 * 4 * np.eye(3)
    pooled = np.linalg.solve(gram, sum(x.T @ y / len(x) for x, y in zip(xs, ys, strict=True)))
    assert ones.w == pytest.approx(np.tile(pooled[:, None], 4), abs=1e-6)
    xs, ys = tasks_of(HingeLoss())
    strong = Twin.of(xs, ys, HingeLoss(), 1e8, coupled(4, 0.5))
    strong.round(1)
    assert all(alpha == pytest.approx(y) for alpha, y in zip(strong.alphas, ys, strict=True))
    assert np.abs(strong.w).max() < 1e-7 and strong.certificate().primal == pytest.approx(4.0, abs=1e-6)


# ---- the certificate ----


@each_loss
def test_the_dual_never_falls_whoever_works_how_much(loss: DualLoss) -> None:
    budgets = troubled(6, 1)
    twin = Twin.of(*tasks_of(loss, tasks=6), loss, 0.01, coupled(6, 0.9))
    past = twin.run(150, passes=lambda _: next(budgets))
    for before, after in pairwise(past):
        assert after.dual >= before.dual - 1e-12
    assert all(found.gap >= -1e-9 for found in past)
    assert past[-1].gap < 0.05 * past[0].gap


def test_the_largest_eigenvalue_of_the_correlations_is_coupling_enough() -> None:
    """Sigma <= c D for its diagonal D holds from there on; with mixed signs that is far less than the sums of rows."""
    factors = np.random.default_rng(3).normal(size=(6, 6))
    sigma = factors @ factors.T / np.trace(factors @ factors.T)
    deviations = np.sqrt(np.diag(sigma))
    coupling = float(np.linalg.eigvalsh(sigma / np.outer(deviations, deviations))[-1])
    twins = [Twin.of(*tasks_of(HingeLoss(), tasks=6), HingeLoss(), 0.01, sigma, forced=c) for c in (coupling, None)]
    assert coupling < 0.8 * max(problem.coupling for problem in twins[1].problems)
    past = twins[0].run(100)
    assert all(after.dual >= before.dual - 1e-12 for before, after in pairwise(past))


def test_the_dual_can_fall_where_the_coupling_is_denied() -> None:
    """With sigma' = 1, six nearly equal tasks each go the whole way to where one of them should go a sixth."""
    tasks = tasks_of(SquaredLoss(), tasks=6, shared=1.0)
    safe, forced = (Twin.of(*tasks, SquaredLoss(), 0.001, coupled(6, 0.99), forced=value) for value in (None, 1.0))
    rising, falling = ([found.dual for found in twin.run(5, passes=lambda _: [3.0] * 6)] for twin in (safe, forced))
    assert rising == sorted(rising)
    assert falling != sorted(falling)


@each_loss
def test_the_gap_stays_a_certificate_while_relationships_are_learned(loss: DualLoss) -> None:
    budgets = troubled(5, 2)
    twin = Twin.of(*tasks_of(loss, tasks=5), loss, 0.01, np.eye(5) / 5)
    past = twin.run(60, passes=lambda _: next(budgets), relearn=learned)
    assert all(found.gap >= -1e-9 for found in past)
    assert not np.allclose(twin.sigma, np.eye(5) / 5)
    settled = twin.run(400, passes=lambda _: [3.0] * 5)
    assert -1e-9 <= settled[-1].gap < 1e-3


def test_clients_that_hold_one_task_together_reach_its_optimum() -> None:
    """Three parts of one task: n_t is the whole's, and sigma' = 3 makes their changes add up safely."""
    (xs, ys), loss = tasks_of(HingeLoss(), tasks=1, rows=60), HingeLoss()
    whole = Twin.of(xs, ys, loss, 0.05, np.eye(1))
    optimum = whole.run(300, passes=lambda _: [5.0], stop_at_gap=1e-10)[-1]
    places = np.array_split(np.arange(60), [10, 40])
    matrices, whole_count = [DesignMatrix.of(xs[0][p]) for p in places], len(ys[0])
    parts = [
        Subproblem(matrix, ys[0][p], np.ones(len(p)), loss, whole_count, 0.05, 1.0, coupling=3.0)
        for matrix, p in zip(matrices, places, strict=True)
    ]
    alphas, supports, w, duals = [np.zeros(len(p)) for p in places], np.zeros((3, 3)), np.zeros(3), []
    for number in range(300):
        for k, part in enumerate(parts):
            solved = solve(part, w, alphas[k], number, 3 * len(part.rows))
            alphas[k], supports[k] = solved.alpha, solved.support
        w = supports.sum(axis=0) / 60 / 0.05
        sums = [measure(part, w, alpha) for part, alpha in zip(parts, alphas, strict=True)]
        duals.append(sum(part.dual_sum for part in sums) / 60 - 0.05 / 2.0 * float(w @ w))
    assert all(after >= before - 1e-12 for before, after in pairwise(duals))
    assert duals[-1] == pytest.approx(optimum.primal, abs=1e-5)
    assert sum(part.loss_sum for part in sums) / 60 + 0.05 / 2.0 * float(w @ w) >= optimum.dual - 1e-9
