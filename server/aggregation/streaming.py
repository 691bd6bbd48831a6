"""The streaming mean: one float64 sum per scope, whatever the number of clients."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np
from numpy.typing import NDArray

Float32 = NDArray[np.float32]
Float64 = NDArray[np.float64]

BLOCK = 1 << 15
"""Elements worked on at a time: sum, delta and product of one block stay in the core's cache."""


def is_finite(vector: Float32) -> bool:
    """Whether a float32 vector holds neither NaN nor infinity."""
    return all(bool(np.isfinite(vector[i : i + BLOCK]).all()) for i in range(0, len(vector), BLOCK))


class StreamingMean:
    """Weighted sums of deltas; integer weights, divided out once at the end (FedAvg, McMahan et al. 2017).

    A float32 delta times an integer weight is exact in float64, and so are the sums of such products over clients
    while their exponents lie close together, as those of one parameter's deltas do. The order of arrival then leaves
    no trace in the result.
    """

    def __init__(self) -> None:
        self._sums: dict[str, Float64] = {}
        self._used: set[str] = set()
        self._product = np.empty(BLOCK, dtype=np.float64)

    def fold(self, deltas: Sequence[tuple[str, Float32]], weights: Mapping[str, int]) -> None:
        """Add one client's deltas, one float32 vector per scope, times its weight in that scope."""
        for scope, delta in deltas:
            if scope not in self._sums:
                self._sums[scope] = np.empty(len(delta), dtype=np.float64)
            total, weight = self._sums[scope], float(weights[scope])
            first = scope not in self._used
            for i in range(0, len(delta), BLOCK):
                block, part = total[i : i + BLOCK], delta[i : i + BLOCK]
                if first:
                    np.multiply(part, weight, out=block, dtype=np.float64)
                else:
                    product = np.multiply(part, weight, out=self._product[: len(part)], dtype=np.float64)
                    np.add(block, product, out=block)
            self._used.add(scope)

    def combine(self, scope: str, base: Float32, total: int, rate: float) -> Float32:
        """`base + rate * sum / total` as a new float32 vector, computed in float64."""
        result = np.empty(len(base), dtype=np.float32)
        sums = self._sums[scope]
        for i in range(0, len(base), BLOCK):
            step = np.divide(sums[i : i + BLOCK], total, out=self._product[: len(base[i : i + BLOCK])])
            step *= rate
            step += base[i : i + BLOCK]
            result[i : i + BLOCK] = step
        return result

    def clear(self) -> None:
        """Forget all sums; their memory is kept for the next round."""
        self._used.clear()
