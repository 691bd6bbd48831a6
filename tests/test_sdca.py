"""The local solver: dual ascent, its accuracy, its layouts, and what it makes of weights and of bad arguments."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass, replace
from itertools import count

import numpy as np
import pytest

from client.training.coordinate_loop import compiles
from client.training.design import DesignMatrix
from client.training.sdca import BLOCK, Solved, Subproblem, accuracy, measure, solve
from common.methods.dual_losses import DUAL_LOSSES, DualLoss, HingeLoss, LogisticLoss, SquaredLoss

each_loss = pytest.mark.parametrize("loss", [row() for row in DUAL_LOSSES.values()], ids=list(DUAL_LOSSES))


def made(loss: DualLoss, rows: int = 60, seed: int = 0, sparse: bool | None = None, empty: float = 0.0) -> Subproblem:
    """A task of noisy rows with three features and weights from 0 to 2; `empty`: the share of zeros."""
    rng = np.random.default_rng(seed)
    x = rng.normal(size=(rows, 3)) * (rng.random((rows, 3)) >= empty)
    z = x @ np.array([1.0, -2.0, 0.5]) + rng.normal(size=rows)
    y, c = np.where(z > 0.0, 1.0, -1.0) if loss.for_classes else z, rng.uniform(0.0, 2.0, rows)
    return Subproblem(DesignMatrix.of(x, sparse), y, c, loss, rows, 0.1, 0.5)


def zeros(problem: Subproblem) -> np.ndarray:
    return np.zeros(len(problem.rows))


def alone(problem: Subproblem, visits: int, seed: int = 0) -> tuple[Solved, float, float]:
    """A single task solved from zero with w = b Sigma / lambda: what came out, its primal and its dual."""
    w = np.zeros(problem.rows.features)
    solved = solve(problem, w, zeros(problem), seed, visits, compiled=False)
    w = w + problem.factor * solved.support
    sums = measure(problem, w, solved.alpha)
    penalty = float(solved.support @ solved.support) * problem.factor / 2.0
    return solved, sums.loss_sum + penalty, sums.dual_sum - penalty


@each_loss
def test_primal_and_dual_meet(loss: DualLoss) -> None:
    problem = made(loss)
    duals = [alone(problem, visits)[2] for visits in (0, 1, 17, 60, 61, 300)]
    assert duals == sorted(duals)
    _, primal, dual = alone(problem, 60 * 400)
    assert -1e-9 <= primal - dual <= (1e-6 if loss.name == "hinge" else 1e-9) * primal


@each_loss
def test_the_accuracy_bounds_theta(loss: DualLoss) -> None:
    problem, rng = replace(made(loss), coupling=2.0), np.random.default_rng(1)
    w = rng.normal(size=3)
    best = solve(problem, w, zeros(problem), 0, 60 * 600, compiled=False).alpha

    def height(alpha: np.ndarray) -> float:
        change = problem.rows.support(alpha)
        return float(np.sum(problem.conjugates(alpha)) + w @ change + problem.factor / 2.0 * (change @ change))

    assert accuracy(problem, w, zeros(problem), zeros(problem)) == 1.0
    bounds = []
    for visits in (1, 10, 30, 120, 600):
        after = solve(problem, w, zeros(problem), 0, visits, compiled=False).alpha
        theta = (height(after) - height(best)) / (height(zeros(problem)) - height(best))
        bounds.append(accuracy(problem, w, zeros(problem), after))
        assert 0.0 <= theta - 1e-12 <= bounds[-1] <= 1.0
    assert bounds[-1] < 0.05
    assert accuracy(problem, w, zeros(problem), best) < 1e-6


def test_at_the_optimum_the_accuracy_is_0_and_not_1_though_nothing_was_done() -> None:
    problem = replace(made(HingeLoss()), strength=1e6)  # every margin is short of 1, so every alpha is at its bound
    best = problem.targets * problem.weights
    w = problem.factor * problem.rows.support(best)
    assert accuracy(problem, w, best, best) == 0.0
    assert accuracy(problem, w, best, 2.0 * best) == 1.0  # outside of the domain there is no certificate


@each_loss
def test_weights_are_repetitions(loss: DualLoss) -> None:
    problem = made(loss, rows=20)
    times = np.arange(20) % 4
    x, y = np.asarray(problem.rows.entries), problem.targets
    weighted = replace(problem, weights=times.astype(float), count=30)
    rows = DesignMatrix.of(np.repeat(x, times, axis=0))
    repeated = Subproblem(rows, np.repeat(y, times), np.ones(30), loss, 30, 0.1, 0.5)
    one, other = alone(weighted, 20 * 2000), alone(repeated, 30 * 2000)
    assert one[1] == pytest.approx(other[1], rel=1e-9)
    assert one[0].support == pytest.approx(other[0].support, abs=1e-4)
    assert not one[0].alpha[times == 0].any()


@each_loss
def test_compressed_rows_give_the_numbers_of_dense_ones(loss: DualLoss) -> None:
    dense, sparse = (made(loss, sparse=sparse, empty=0.7) for sparse in (False, True))
    w = np.array([0.3, -0.2, 0.1])
    one, other = (solve(problem, w, zeros(dense), 3, 200, compiled=False) for problem in (dense, sparse))
    assert one.alpha == pytest.approx(other.alpha, abs=1e-12, rel=1e-12)
    assert one.support == pytest.approx(other.support, abs=1e-12, rel=1e-12)
    assert vars(measure(dense, w, one.alpha)) == pytest.approx(vars(measure(sparse, w, one.alpha)), rel=1e-12)


@each_loss
@pytest.mark.parametrize("sparse", [False, True])
@pytest.mark.skipif(not compiles(), reason="numba is not installed")
def test_the_compiled_loop_gives_the_numbers_of_the_interpreted_one(loss: DualLoss, sparse: bool) -> None:
    problem = made(loss, sparse=sparse, empty=0.5)
    w = np.array([0.3, -0.2, 0.1])
    one, other = (solve(problem, w, zeros(problem), 3, 200, compiled=compiled) for compiled in (False, True))
    assert one.alpha == pytest.approx(other.alpha, abs=1e-12, rel=1e-12)
    assert one.support == pytest.approx(other.support, abs=1e-12, rel=1e-12)
    assert one.visits == other.visits == 200


@dataclass(frozen=True)
class AbsoluteLoss(DualLoss):
    """|z - y|: l*(-a) = -y a for a in [-1, 1]."""

    name = "absolute"
    for_classes = False

    @staticmethod
    def step(score: float, target: float, weight: float, alpha: float, curvature: float, smoothing: float) -> float:
        if curvature == 0.0:
            return math.copysign(weight, target - score)
        return min(max(alpha + (target - score) / curvature, -weight), weight)

    def losses(self, scores: np.ndarray, targets: np.ndarray) -> np.ndarray:
        return np.abs(scores - targets)

    def conjugates(self, alpha: np.ndarray, targets: np.ndarray) -> np.ndarray:
        return -targets * alpha

    def inside(self, alpha: np.ndarray, targets: np.ndarray) -> np.ndarray:
        return np.abs(alpha) <= 1.0


def test_another_loss_is_one_class_compiled_or_not() -> None:
    problem = made(AbsoluteLoss())
    _, primal, dual = alone(problem, 60 * 400)
    assert -1e-9 <= primal - dual <= 1e-5 * primal
    one, other = (solve(problem, np.zeros(3), zeros(problem), 0, 90, compiled=how) for how in (False, None))
    assert one.alpha == pytest.approx(other.alpha, abs=1e-12, rel=1e-12)


def test_rows_with_few_entries_are_compressed() -> None:
    x = np.zeros((10, 10))
    x[np.arange(10), np.arange(10)] = 2.0
    assert isinstance(DesignMatrix.of(x).entries, tuple)
    assert not isinstance(DesignMatrix.of(x + 1.0).entries, tuple)
    assert DesignMatrix.of(x).squares.tolist() == [4.0] * 10
    assert DesignMatrix.of(np.zeros((3, 4))).support(np.ones(3)).tolist() == [0.0] * 4


def test_every_pass_visits_every_row_once_and_a_seed_gives_the_same_bits() -> None:
    problem = made(HingeLoss(), rows=50)  # from zero, a visit of a row moves its alpha
    problem = replace(problem, weights=np.ones(50), strength=1e6)
    assert np.count_nonzero(solve(problem, np.zeros(3), zeros(problem), 5, 20, compiled=False).alpha) == 20
    assert solve(problem, np.zeros(3), zeros(problem), 5, 50, compiled=False).alpha == pytest.approx(problem.targets)
    small = replace(problem, strength=0.01)
    found = [solve(small, np.zeros(3), zeros(small), seed, 70, compiled=False).alpha.tobytes() for seed in (5, 5, 6)]
    assert found[0] == found[1] != found[2]


def test_the_work_ends_when_its_time_is_over() -> None:
    problem, looks = made(SquaredLoss(), rows=BLOCK + 10), count(1)
    stop: Callable[[], bool] = lambda: next(looks) == 3  # noqa: E731
    solved = solve(problem, np.zeros(3), zeros(problem), 0, 10 * BLOCK, stop, compiled=False)
    assert solved.visits == 2 * BLOCK + 10
    assert measure(problem, np.zeros(3), solved.alpha).dual_sum > -np.inf


def test_sums_by_hand() -> None:
    rows = DesignMatrix.of(np.array([[3.0, 4.0], [0.0, 1.0]]))
    problem = Subproblem(rows, np.array([1.0, -1.0]), np.array([2.0, 0.5]), HingeLoss(), 2, 1.0, 1.0)
    sums = measure(problem, np.array([0.1, 0.1]), np.array([1.5, -0.25]))
    assert sums.loss_sum == pytest.approx(2.0 * 0.3 + 0.5 * 1.1)
    assert sums.dual_sum == pytest.approx(1.75)
    assert (sums.norm_sum, sums.square_sum) == pytest.approx((10.5, 50.5))
    assert measure(problem, np.zeros(2), np.array([1.5, 0.25])).dual_sum == -np.inf


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"targets": np.zeros(60)}, "neither -1 nor 1"),
        ({"targets": np.ones(59)}, "targets of shape"),
        ({"weights": np.full(60, np.nan)}, "weights of shape"),
        ({"weights": -np.ones(60)}, "negative"),
        ({"count": 59}, "cannot have 60"),
        ({"strength": 0.0}, "out of range"),
        ({"coupling": 0.5}, "out of range"),
        ({"sigma": np.inf}, "out of range"),
    ],
)
def test_a_subproblem_that_makes_no_sense_is_refused(changes: dict[str, object], words: str) -> None:
    with pytest.raises(ValueError, match=words):
        replace(made(LogisticLoss()), **changes)
    with pytest.raises(ValueError, match="finite"):
        DesignMatrix.of(np.array([[np.nan]]))
