"""What the server does with a combined step: it, too, may have momentum and rates per parameter.

Steps are handled in float64, block by block. Moments are kept, stored and read back as float32, and the same rounded
values are what the next round starts from, so that a restart changes no bit.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np

from common.config.aggregation_section import AggregationSection, OptimizerName
from common.parameters.vector import Float64, Vector

Advance = Callable[[Float64, Sequence[Vector]], Float64]
"""From a combined step and the optimizer's moments, which it changes in place, to the move; all (n,)."""


@dataclass(frozen=True)
class ServerOptimizer:
    """A server optimizer. `moments` are the names of what it remembers of every parameter, with the first values."""

    advance: Advance
    moments: tuple[tuple[str, float], ...] = ()


FIRST, SECOND = "first_moment", "second_moment"


def _as_it_is(step: Float64, _: Sequence[Vector]) -> Float64:
    return step


SGD = ServerOptimizer(_as_it_is)
"""The step as it is: federated averaging, for a rate of 1."""


def momentum(beta: float) -> ServerOptimizer:
    """Add up: m = beta m + step, which is the move (FedAvgM, Hsu, Qi and Brown 2019)."""

    def advance(step: Float64, moments: Sequence[Vector]) -> Float64:
        (first,) = moments
        move: Float64 = beta * first.astype(np.float64) + step
        first[:] = move
        return move

    return ServerOptimizer(advance, ((FIRST, 0.0),))


def adam(beta1: float, beta2: float, tau: float) -> ServerOptimizer:
    """FedAdam (Reddi et al., ICLR 2021, algorithm 2): second moment v = beta2 v + (1 - beta2) step^2."""

    def second(v: Float64, square: Float64) -> Float64:
        return beta2 * v + (1.0 - beta2) * square

    return _adaptive(second, beta1, tau)


def yogi(beta1: float, beta2: float, tau: float) -> ServerOptimizer:
    """FedYogi (Reddi et al., ICLR 2021, algorithm 2): v = v - (1 - beta2) step^2 sign(v - step^2)."""

    def second(v: Float64, square: Float64) -> Float64:
        result: Float64 = v - (1.0 - beta2) * square * np.sign(v - square)
        return result

    return _adaptive(second, beta1, tau)


def _adaptive(second: Callable[[Float64, Float64], Float64], beta1: float, tau: float) -> ServerOptimizer:
    """Algorithm 2: m = beta1 m + (1 - beta1) step; the move is m / (sqrt(v) + tau).

    v starts at tau^2, the least that the algorithm allows. Like the algorithm, and unlike Adam (Kingma and Ba 2015), it
    does not correct the moments for their start: the first move has (1 - beta1) of the step in it.
    """

    def advance(step: Float64, moments: Sequence[Vector]) -> Float64:
        first, v = moments
        m: Float64 = beta1 * first.astype(np.float64) + (1.0 - beta1) * step
        squares = second(v.astype(np.float64), step * step)
        first[:], v[:] = m, squares
        m /= np.sqrt(squares) + tau
        return m

    return ServerOptimizer(advance, ((FIRST, 0.0), (SECOND, tau * tau)))


def optimizer_of(section: AggregationSection, name: OptimizerName) -> ServerOptimizer:
    """The optimizer of a name, with the section's settings."""
    if name == "momentum":
        return momentum(section.beta1)
    if name == "sgd":
        return SGD
    table = {"adam": adam, "yogi": yogi}
    return table[name](section.beta1, section.beta2, section.tau)
