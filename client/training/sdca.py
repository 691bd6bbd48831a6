"""Stochastic dual coordinate ascent on one task's rows: MOCHA's exact local work.

Tasks t have models W = B Sigma / lambda, where b_t = (1 / n_t) sum_i alpha_i x_i over all rows of the task. With w its
model at the start, u the change of sum alpha_i x_i, and k = sigma' Sigma_tt / (lambda n_t), the work is to bring down
G(alpha) = sum_i (c_i l)*(-alpha_i) + <w, u> + (k / 2) ||u||^2,
n_t times the part of the negated dual that this client can change, with all others' changes bounded by sigma'.
Source: Smith et al., NeurIPS 2017 (equation 4); the coordinate steps are those of `common.methods.dual_losses`.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from client.training.coordinate_loop import compiles, coordinate_loop
from client.training.design import DesignMatrix, Vector
from common.methods.dual_losses import DualLoss

BLOCK = 4096
"""Visits between two looks at `stop`."""


@dataclass(frozen=True)
class Subproblem:
    """What one client has of one task, and how strongly its changes weigh. Its arrays are not written to.

    Raises:
        ValueError: shapes differ, a weight is negative, or a number is out of its range.
    """

    rows: DesignMatrix
    """Of this client, n x d."""
    targets: Vector
    """y_i, float64 (n,): -1 and 1, or numbers."""
    weights: Vector
    """c_i >= 0 of the losses, float64 (n,)."""
    loss: DualLoss
    count: int
    """n_t: rows of the whole task, of all clients that have some of it."""
    strength: float
    """lambda > 0."""
    sigma: float
    """Sigma_tt >= 0."""
    coupling: float = 1.0
    """sigma' >= 1. Safe, so that no dual falls: a task's sum_t' |Sigma_tt'| / Sigma_tt, or for all tasks the largest
    eigenvalue of the correlation matrix of Sigma, which is no greater than the greatest of these. A task that k clients
    hold counts as k equal tasks."""

    def __post_init__(self) -> None:
        for name, values in (("targets", self.targets), ("weights", self.weights)):
            if values.shape != (len(self.rows),) or not np.isfinite(values).all():
                raise ValueError(f"{name} of shape {values.shape} are not {len(self.rows)} finite numbers")
        if (self.weights < 0.0).any():
            raise ValueError("a weight is negative")
        if self.loss.for_classes and not (np.abs(self.targets) == 1.0).all():
            raise ValueError(f"a target of the loss '{self.loss.name}' is neither -1 nor 1")
        if self.count < max(len(self.rows), 1):
            raise ValueError(f"a task of {self.count} rows cannot have {len(self.rows)} here")
        if not (self.strength > 0.0 and self.sigma >= 0.0 and self.coupling >= 1.0 and np.isfinite(self.factor)):
            raise ValueError(
                f"strength {self.strength}, sigma {self.sigma} or coupling {self.coupling} is out of range"
            )

    @property
    def factor(self) -> float:
        """How far the local model moves per unit of alpha_i x_i: k above."""
        return self.coupling * self.sigma / (self.strength * self.count)

    def conjugates(self, alpha: Vector) -> Vector:
        """(c_i l)*(-alpha_i), float64 (n,); infinite where alpha lies outside of its domain."""
        return self.loss.weighted_conjugates(alpha, self.targets, self.weights)

    def losses(self, scores: Vector) -> Vector:
        """c_i l(z_i, y_i), float64 (n,)."""
        return self.weights * self.loss.losses(scores, self.targets)


@dataclass(frozen=True)
class Solved:
    """What came out of the work."""

    alpha: Vector
    """The new dual variables, float64 (n,); the old ones are left as they were."""
    support: Vector
    """Sum alpha_i x_i of the new ones, float64 (d,), summed afresh; its share of b_t is this / n_t."""
    visits: int
    """Coordinates that were visited."""


@dataclass(frozen=True)
class TaskSums:
    """A client's parts of a task's primal and dual, before the division by n_t."""

    loss_sum: float
    """Sum c_i l(z_i, y_i)."""
    dual_sum: float
    """-sum (c_i l)*(-alpha_i); minus infinity where alpha lies outside of its domain."""
    norm_sum: float
    """Sum c_i ||x_i||."""
    square_sum: float
    """Sum c_i ||x_i||^2."""


def solve(
    problem: Subproblem,
    w: Vector,
    alpha: Vector,
    seed: int,
    visits: int,
    stop: Callable[[], bool] | None = None,
    compiled: bool | None = None,
) -> Solved:
    """Improve alpha by exact steps along single coordinates; none makes the objective worse.

    Rows are visited in random permutations, pass after pass. The result depends on the arguments alone, unless `stop`
    ends the work early. Other threads of Python run meanwhile if the loop is compiled.

    Args:
        problem: the rows and constants.
        w: the task's model, float64 (d,).
        alpha: the dual variables so far, float64 (n,), with `w` belonging to them and to the other tasks'.
        seed: of the permutations.
        visits: how many coordinates to visit.
        stop: asked after every `BLOCK` visits whether the time is over.
        compiled: whether numba compiles the loop; by default if it is installed. Numbers differ by rounding only.
    """
    compiled = compiles() if compiled is None else compiled
    loop = coordinate_loop(problem.loss.step, isinstance(problem.rows.entries, tuple), compiled)
    model, new = np.array(w, dtype=np.float64), np.array(alpha, dtype=np.float64)
    vectors = [problem.rows.squares, problem.targets, problem.weights]
    values = [vector if compiled else vector.tolist() for vector in vectors]  # single numbers of lists are faster
    duals = new if compiled else new.tolist()
    done = 0
    for order in _orders(len(new), seed, visits):
        places = order if compiled else order.tolist()
        loop(problem.rows.entries, *values, places, duals, model, problem.factor, problem.loss.smoothing)
        done += len(order)
        if stop is not None and stop():
            break
    new = np.asarray(duals, dtype=np.float64)
    return Solved(new, problem.rows.support(new), done)


def measure(problem: Subproblem, w: Vector, alpha: Vector) -> TaskSums:
    """The sums of a model (d,) and of dual variables (n,); they need not belong together."""
    return TaskSums(
        loss_sum=float(np.sum(problem.losses(problem.rows.scores(w)))),
        dual_sum=-float(np.sum(problem.conjugates(alpha))),
        norm_sum=float(np.sum(problem.weights * np.sqrt(problem.rows.squares))),
        square_sum=float(np.sum(problem.weights * problem.rows.squares)),
    )


def accuracy(problem: Subproblem, w: Vector, before: Vector, after: Vector) -> float:
    """An upper bound of theta = (G(after) - G*) / (G(before) - G*): 1 for no progress, 0 at the optimum.

    For v = w + k u, the local model after the work, the inequality of Fenchel and Young holds row by row:
    (c l)*(-a) >= -a <x, v> - c l(<x, v>) for every a. In G it gives a lower bound of G*, whose minimum over u is at
    this v, and what G(after) lies above it is
    gap = sum_i (c_i l)*(-after_i) + c_i l(<x_i, v>) + after_i <x_i, v>, in which no summand is negative.
    With gain = G(before) - G(after), theta = e / (e + gain) for an e in [0, gap]; it grows with e. A gap that is not
    above the rounding of its summands counts as 0.

    Args:
        problem: the rows and constants.
        w: the task's model before the work, float64 (d,).
        before: the dual variables before, float64 (n,).
        after: those after.
    """
    change = problem.rows.support(after - before)
    scores = problem.rows.scores(w + problem.factor * change)
    old, new, losses = problem.conjugates(before), problem.conjugates(after), problem.losses(scores)
    gap = float(np.sum(np.maximum(new + losses + after * scores, 0.0)))
    if not np.isfinite(gap):
        return 1.0
    if gap <= 8.0 * np.finfo(np.float64).eps * float(np.sum(np.abs(new) + losses + np.abs(after * scores))):
        return 0.0
    gain = float(np.sum(old - new) - w @ change - 0.5 * problem.factor * (change @ change))
    return gap / (gap + gain) if gain > 0.0 else 1.0


def _orders(count: int, seed: int, visits: int) -> Iterator[NDArray[np.int64]]:
    """The rows to visit, in blocks."""
    generator = np.random.Generator(np.random.PCG64(seed))
    while count and visits > 0:
        order = generator.permutation(count)[:visits]
        visits -= len(order)
        for begin in range(0, len(order), BLOCK):
            yield order[begin : begin + BLOCK]
