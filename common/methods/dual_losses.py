"""Losses of linear models that are fitted in the dual: the conjugate, the coordinate step, and what a move may cost.

For scores z_i = <w, x_i>, targets y_i and weights c_i a task's loss is sum c_i l(z_i, y_i). Every row has a dual
variable alpha_i; the dual sum is -sum (c_i l)*(-alpha_i), where (c l)*(-alpha) = c l*(-alpha / c), so that alpha_i
lies in c_i times the domain of l*. A row of weight 0 has alpha_i = 0. Source: Shalev-Shwartz and Zhang, JMLR 2013.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Annotated, ClassVar

import numpy as np
from numpy.typing import NDArray

from common.methods.choice import Bounds, Row, table

Vector = NDArray[np.float64]

Step = Callable[[float, float, float, float, float, float], float]
"""(score, target, weight, alpha, curvature, smoothing) -> the new alpha: the minimum over a of
(c l)*(-a) + score (a - alpha) + curvature (a - alpha)^2 / 2. Plain arithmetic and `math`, for a client compiles it."""


def _clipped_step(
    score: float, target: float, weight: float, alpha: float, curvature: float, smoothing: float
) -> float:
    """Of a hinge: l*(-a) = -y a + smoothing a^2 / 2 for y a in [0, 1]."""
    if weight == 0.0:
        return 0.0
    signed = target * alpha
    slope = 1.0 - target * score - smoothing * signed / weight
    bend = curvature + smoothing / weight
    if bend == 0.0:  # a row of zeros: the objective is linear
        return target * weight if slope > 0.0 else 0.0
    return target * min(max(signed + slope / bend, 0.0), weight)


def _squared_step(
    score: float, target: float, weight: float, alpha: float, curvature: float, smoothing: float
) -> float:
    """Of the squared loss: l*(-a) = -y a + a^2 / 2."""
    if weight == 0.0:
        return 0.0
    return alpha + (target - score - alpha / weight) / (curvature + 1.0 / weight)


def _logistic_step(
    score: float, target: float, weight: float, alpha: float, curvature: float, smoothing: float
) -> float:
    """Of the logistic loss: l*(-a) = u log u + (1 - u) log(1 - u) for u = y a in [0, 1].

    Solves t + y score + b (sigmoid(t) - u) = 0 for t, the logit of the new u, with b = curvature weight. The left side
    has a slope of at least 1. A step of Newton's that leaves the bounds of the root, or is longer than half of the step
    before, gives way to bisection: without the second rule Newton's steps may go back and forth forever.
    """
    if weight == 0.0:
        return 0.0
    share = min(max(target * alpha / weight, 0.0), 1.0)
    bend = curvature * weight
    low = min(max(-target * score - bend * (1.0 - share), -700.0), 700.0)  # beyond, the share is 0 or 1
    high = min(max(-target * score + bend * share, -700.0), 700.0)
    logit = 0.0
    if 0.0 < share < 1.0:
        logit = math.log(share) - math.log(1.0 - share)
    logit = min(max(logit, low), high)
    change = 2.0 * (high - low)
    for _ in range(200):
        new = 1.0 / (1.0 + math.exp(-logit))
        value = logit + target * score + bend * (new - share)
        if value > 0.0:
            high = logit
        else:
            low = logit
        moved = logit - value / (1.0 + bend * new * (1.0 - new))
        if not low <= moved <= high or 2.0 * abs(moved - logit) > change:
            moved = 0.5 * (low + high)
        change = abs(moved - logit)
        logit = moved
        if change <= 1e-13 * max(1.0, abs(logit)):
            break
    return target * weight / (1.0 + math.exp(-logit))


class DualLoss(Row):
    """Base of the rows. Targets of classes are -1 and 1."""

    for_classes: ClassVar[bool] = True
    """Whether targets are classes, or else numbers."""
    smoothing: float = 0.0
    """The last argument of `step`."""
    lipschitz: ClassVar[float | None] = 1.0
    """The greatest slope of the loss in the score; None: there is none."""

    @staticmethod
    def step(score: float, target: float, weight: float, alpha: float, curvature: float, smoothing: float) -> float:
        """See `Step`."""
        raise NotImplementedError

    @property
    def smoothness(self) -> float | None:
        """The greatest second derivative of the loss in the score; None: there is none."""
        return None

    def losses(self, scores: Vector, targets: Vector) -> Vector:
        """The losses l(z, y), float64 (n,)."""
        raise NotImplementedError

    def conjugates(self, alpha: Vector, targets: Vector) -> Vector:
        """The values of l*(-alpha), float64 (n,); what they are outside of the domain does not matter."""
        raise NotImplementedError

    def inside(self, alpha: Vector, targets: Vector) -> NDArray[np.bool_]:
        """Where -alpha lies in the domain of l*, (n,)."""
        signed = alpha * targets
        return (signed >= 0.0) & (signed <= 1.0)

    def weighted_conjugates(self, alpha: Vector, targets: Vector, weights: Vector) -> Vector:
        """The values of (c l)*(-alpha), float64 (n,); infinite outside of the domain."""
        shares = np.divide(alpha, weights, out=np.zeros_like(alpha), where=weights > 0.0)
        inside = np.where(weights > 0.0, self.inside(shares, targets), alpha == 0.0)
        return np.where(inside, weights * self.conjugates(shares, targets), np.inf)

    def silent(self, loss_sum: float, distance: float, norm_sum: float, square_sum: float) -> float:
        """An upper bound of sum c_i l(z_i, y_i) after the model moved by a euclidean distance.

        A score moves by at most distance ||x_i||. Where the slope is at most L, the sum grows by at most
        L distance sum c_i ||x_i||. Where the second derivative is at most b, l >= 0 gives |l'|^2 <= 2 b l: the root of
        l has a slope of at most sqrt(b / 2), and by Minkowski's inequality the root of the sum grows by at most
        distance sqrt(b sum c_i ||x_i||^2 / 2). The lesser of what holds.

        Args:
            loss_sum: the sum before.
            distance: how far the model moved.
            norm_sum: sum c_i ||x_i||.
            square_sum: sum c_i ||x_i||^2.
        """
        bounds = []
        if self.lipschitz is not None:
            bounds.append(loss_sum + self.lipschitz * distance * norm_sum)
        if self.smoothness is not None:
            root = math.sqrt(loss_sum) + distance * math.sqrt(self.smoothness * square_sum / 2.0)
            bounds.append(root * root)
        return min(bounds)


@dataclass(frozen=True)
class HingeLoss(DualLoss):
    """max(0, 1 - y z): of a support vector machine."""

    name = "hinge"
    step = staticmethod(_clipped_step)

    def losses(self, scores: Vector, targets: Vector) -> Vector:
        """See `DualLoss`."""
        return np.maximum(0.0, 1.0 - targets * scores)

    def conjugates(self, alpha: Vector, targets: Vector) -> Vector:
        """See `DualLoss`."""
        return -targets * alpha


@dataclass(frozen=True)
class SmoothedHingeLoss(DualLoss):
    """The hinge with a parabola of width s around its corner: (1 - y z)^2 / (2 s) there, 1 - y z - s / 2 beyond."""

    name = "smoothed_hinge"
    step = staticmethod(_clipped_step)
    smoothing: Annotated[float, Bounds(above=0, most=1)] = 0.5
    """width of the parabola, s"""

    @property
    def smoothness(self) -> float | None:
        """See `DualLoss`."""
        return 1.0 / self.smoothing

    def losses(self, scores: Vector, targets: Vector) -> Vector:
        """See `DualLoss`."""
        short: Vector = np.maximum(0.0, 1.0 - targets * scores)
        within: Vector = np.minimum(short, self.smoothing)
        return within * within / (2.0 * self.smoothing) + (short - within)

    def conjugates(self, alpha: Vector, targets: Vector) -> Vector:
        """See `DualLoss`."""
        return -targets * alpha + self.smoothing / 2.0 * alpha * alpha


@dataclass(frozen=True)
class SquaredLoss(DualLoss):
    """(z - y)^2 / 2: of ridge regression."""

    name = "squared"
    for_classes = False
    step = staticmethod(_squared_step)
    lipschitz = None

    @property
    def smoothness(self) -> float | None:
        """See `DualLoss`."""
        return 1.0

    def losses(self, scores: Vector, targets: Vector) -> Vector:
        """See `DualLoss`."""
        differences = scores - targets
        return 0.5 * differences * differences

    def conjugates(self, alpha: Vector, targets: Vector) -> Vector:
        """See `DualLoss`."""
        return -targets * alpha + 0.5 * alpha * alpha

    def inside(self, alpha: Vector, targets: Vector) -> NDArray[np.bool_]:
        """See `DualLoss`."""
        return np.isfinite(alpha)


@dataclass(frozen=True)
class LogisticLoss(DualLoss):
    """log(1 + exp(-y z)): of logistic regression."""

    name = "logistic"
    step = staticmethod(_logistic_step)

    @property
    def smoothness(self) -> float | None:
        """See `DualLoss`."""
        return 0.25

    def losses(self, scores: Vector, targets: Vector) -> Vector:
        """See `DualLoss`."""
        return np.logaddexp(0.0, -targets * scores)

    def conjugates(self, alpha: Vector, targets: Vector) -> Vector:
        """See `DualLoss`."""
        share = np.clip(targets * alpha, 0.0, 1.0)
        rest = 1.0 - share
        return share * np.log(np.where(share > 0.0, share, 1.0)) + rest * np.log(np.where(rest > 0.0, rest, 1.0))


DUAL_LOSSES: dict[str, type[DualLoss]] = table(HingeLoss, SmoothedHingeLoss, SquaredLoss, LogisticLoss)
