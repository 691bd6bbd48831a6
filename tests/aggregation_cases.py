"""What tests of sums share."""

import numpy as np

from common.parameters.vector import Vector
from server.aggregation.accumulator import Piece, Summand
from server.aggregation.streaming import StreamingMean


def moved(sums: StreamingMean, scope: str, base: Vector, total: int, rate: float) -> Vector:
    """`base` plus rate times the scope's mean, rounded once."""
    result = np.empty_like(base)
    for start, step in sums.report(scope, [Piece(0, len(base), [Summand("", total)])]):
        stop = start + len(step)
        result[start:stop] = step * rate + base[start:stop]
    return result
