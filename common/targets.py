"""Training targets: what a client says of its own, and the units in which everybody's head and loss work.

A head's output is (target - mean) / scale, so that scores around 1000 are learned as fast as scores around 0. Mean and
scale are the federation's: pooled once from sums of all clients, then fixed. They are made coarse, because all clients
of the task hear them: whoever takes its own sums out learns of the others no more than roughly where they lie.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from math import fsum, log2, sqrt
from typing import TYPE_CHECKING, TypeAlias

from common.class_weights import LEAST_WEIGHT, MOST_WEIGHT

if TYPE_CHECKING:  # values alone travel, and asking for a status needs no numpy
    import numpy as np
    from numpy.typing import NDArray

Float64: TypeAlias = "NDArray[np.float64]"

LARGEST_TARGET = 1e30
"""No score is larger; squares and products of such are still finite, and so is the last layer in float32."""
_LEAST_SCALE, _MOST_SCALE = 2.0**-100, 2.0**101
_STEPS = 4
"""A mean is rounded to a multiple of scale / _STEPS."""
_CONSTANT = 1e-13
"""A deviation this small against the mean is rounding."""


@dataclass(frozen=True)
class TargetSums:
    """The mean of a client's training targets, and the sum of their squared deviations from it; or counts of labels."""

    mean: float = 0.0
    squares: float = 0.0
    counts: tuple[float, ...] = ()
    """How many rows have each label, of a task whose classes are to be balanced."""

    def fits(self, count: int) -> bool:
        """Whether `count` targets that are allowed can have these sums."""
        spread = (count - 1) * (2.0 * LARGEST_TARGET) ** 2
        return abs(self.mean) <= LARGEST_TARGET and 0.0 <= self.squares <= spread


@dataclass(frozen=True)
class TargetUnits:
    """The units of a task's head and loss: target = mean + scale * output. Without any, outputs are targets."""

    mean: float = 0.0
    scale: float = 1.0
    weights: tuple[float, ...] | None = None
    """By label: how many times the loss of its rows counts, of tasks with labels (`common.class_weights`)."""

    def problem(self) -> str | None:
        """What is wrong with these numbers, or None."""
        if not abs(self.mean) <= 2.0 * LARGEST_TARGET:
            return f"mean: {self.mean:g} is not from {-2 * LARGEST_TARGET:g} to {2 * LARGEST_TARGET:g}"
        if not _LEAST_SCALE <= self.scale <= _MOST_SCALE:
            return f"scale: {self.scale:g} is not from {_LEAST_SCALE:g} to {_MOST_SCALE:g}"
        for weight in self.weights or ():
            if not LEAST_WEIGHT <= weight <= MOST_WEIGHT:
                return f"weights: {weight:g} is not from {LEAST_WEIGHT:g} to {MOST_WEIGHT:g}"
        return None

    def targets(self, outputs: Float64) -> Float64:
        """What a head's outputs mean in the user's units."""
        return self.mean + self.scale * outputs


OWN_UNITS = TargetUnits()
"""Of tasks for which the federation fixes none."""


def sums_of(targets: Float64) -> TargetSums:
    """The sums of targets (rows,); zeros where there are none."""
    if not len(targets):
        return TargetSums(0.0, 0.0)
    mean = float(targets[0]) + float((targets - targets[0]).mean())
    return TargetSums(mean, float(((targets - mean) ** 2).sum()))


def pooled(parts: Sequence[tuple[float, TargetSums]]) -> tuple[float, float]:
    """Mean and standard deviation of all targets together, from (count, sums); the same in any order of the parts."""
    total = sum(count for count, _ in parts)
    if not total:
        return 0.0, 0.0
    mean = fsum(count * sums.mean for count, sums in parts) / total
    squares = fsum(sums.squares + count * (sums.mean - mean) ** 2 for count, sums in parts)
    deviation = sqrt(squares / total)
    return mean, deviation if deviation > _CONSTANT * abs(mean) else 0.0


def coarse(mean: float, deviation: float) -> TargetUnits:
    """Units for targets with this mean and deviation: a power of two, and a multiple of its quarter.

    Targets are then 0.7 to 1.4 wide and at most 1/8 off the middle; 1 is the scale of targets that are all the same.
    """
    scale = 2.0 ** round(log2(deviation)) if deviation >= _LEAST_SCALE else 1.0
    grid = scale / _STEPS
    return TargetUnits(round(mean / grid) * grid, scale)
