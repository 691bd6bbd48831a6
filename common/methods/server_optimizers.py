"""What the server does with a combined step: it, too, may have momentum and rates per parameter.

Steps are handled in float64, block by block. Moments are kept, stored and read back as float32, and the same rounded
values are what the next round starts from, so that a restart changes no bit.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Annotated, ClassVar

import numpy as np
from numpy.typing import NDArray

from common.methods.choice import Bounds, Row, table

Float32 = NDArray[np.float32]
Float64 = NDArray[np.float64]

Kept = Annotated[float, Bounds(least=0, below=1)]
FIRST, SECOND = "first_moment", "second_moment"


class ServerOptimizer(Row):
    """Base of the rows."""

    is_adaptive: ClassVar[bool] = False
    """Whether its steps do not shrink with the updates."""

    @property
    def moments(self) -> tuple[tuple[str, float], ...]:
        """The names of what it remembers of every parameter, with the first values."""
        return ()

    def advance(self, step: Float64, moments: Sequence[Float32]) -> Float64:
        """From a combined step and the moments, which it changes in place, to the move; all (n,)."""
        raise NotImplementedError


@dataclass(frozen=True)
class PlainStep(ServerOptimizer):
    """The step as it is: federated averaging, for a rate of 1 (McMahan et al. 2017)."""

    name = "sgd"

    def advance(self, step: Float64, moments: Sequence[Float32]) -> Float64:
        """See `ServerOptimizer`."""
        return step


@dataclass(frozen=True)
class FedAvgM(ServerOptimizer):
    """Add up: m = beta1 m + step, which is the move (FedAvgM, Hsu, Qi and Brown 2019)."""

    name = "momentum"
    beta1: Kept = 0.9
    """share of the old first moment that is kept"""

    @property
    def moments(self) -> tuple[tuple[str, float], ...]:
        """See `ServerOptimizer`."""
        return ((FIRST, 0.0),)

    def advance(self, step: Float64, moments: Sequence[Float32]) -> Float64:
        """See `ServerOptimizer`."""
        (first,) = moments
        move: Float64 = self.beta1 * first.astype(np.float64) + step
        first[:] = move
        return move


@dataclass(frozen=True)
class AdaptiveMoments:
    """What FedAdam and FedYogi share (Reddi et al., ICLR 2021, algorithm 2); they differ in the second moment v alone.

    m = beta1 m + (1 - beta1) step; the move is m / (sqrt(v) + tau). v starts at tau^2, the least that the algorithm
    allows. Like the algorithm, and unlike Adam (Kingma and Ba 2015), it does not correct the moments for their start:
    the first move has (1 - beta1) of the step in it.
    """

    beta1: Kept = 0.9
    """share of the old first moment that is kept"""
    beta2: Kept = 0.99
    """the same of the second moment"""
    tau: Annotated[float, Bounds(above=0)] = 1e-3
    """added to the root of the second moment"""

    @property
    def moments(self) -> tuple[tuple[str, float], ...]:
        """See `ServerOptimizer`."""
        return ((FIRST, 0.0), (SECOND, self.tau * self.tau))

    def second_moment(self, v: Float64, square: Float64) -> Float64:
        """The new v, from the old one and the squared step."""
        raise NotImplementedError

    def advance(self, step: Float64, moments: Sequence[Float32]) -> Float64:
        """See `ServerOptimizer`."""
        second = self.second_moment(moments[1].astype(np.float64), step * step)
        m: Float64 = self.beta1 * moments[0].astype(np.float64) + (1.0 - self.beta1) * step
        moments[0][:], moments[1][:] = m, second
        m /= np.sqrt(second) + self.tau
        return m


@dataclass(frozen=True)
class FedAdam(AdaptiveMoments, ServerOptimizer):
    """FedAdam (Reddi et al., ICLR 2021, algorithm 2): second moment v = beta2 v + (1 - beta2) step^2."""

    name = "adam"
    is_adaptive = True

    def second_moment(self, v: Float64, square: Float64) -> Float64:
        """See `AdaptiveMoments`."""
        return self.beta2 * v + (1.0 - self.beta2) * square


@dataclass(frozen=True)
class FedYogi(AdaptiveMoments, ServerOptimizer):
    """FedYogi (Reddi et al., ICLR 2021, algorithm 2): as adam, but v = v - (1 - beta2) step^2 sign(v - step^2)."""

    name = "yogi"
    is_adaptive = True

    def second_moment(self, v: Float64, square: Float64) -> Float64:
        """See `AdaptiveMoments`."""
        return v - (1.0 - self.beta2) * square * np.sign(v - square)


SERVER_OPTIMIZERS: dict[str, type[ServerOptimizer]] = table(PlainStep, FedAvgM, FedAdam, FedYogi)
