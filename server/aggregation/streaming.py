"""The streaming mean: one float64 sum per scope, whatever the number of clients."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np
from numpy.typing import NDArray

Float32 = NDArray[np.float32]
Float64 = NDArray[np.float64]

BLOCK = 1 << 15
"""Elements worked on at a time: sum, delta and product of one block stay in the core's cache."""

CHUNK = BLOCK * 64
"""Elements of a sum that are allocated, and given back, together (16 MiB)."""

KEPT_BYTES = 64 << 20
"""Sums up to this size keep their memory between rounds: fresh memory costs page faults."""


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
        self._sums: dict[str, list[Float64]] = {}
        self._used: set[str] = set()
        self._product = np.empty(BLOCK, dtype=np.float64)

    def fold(self, deltas: Sequence[tuple[str, Float32]], weights: Mapping[str, int]) -> None:
        """Add one client's deltas, one float32 vector per scope, times its weight in that scope."""
        for scope, delta in deltas:
            chunks = self._sums.get(scope) or _new_chunks(len(delta))
            first, weight = scope not in self._used, float(weights[scope])
            for i in range(0, len(delta), BLOCK):
                part = delta[i : i + BLOCK]
                block = chunks[i // CHUNK][i % CHUNK : i % CHUNK + BLOCK]
                if first:
                    np.multiply(part, weight, out=block, dtype=np.float64)
                else:
                    product = np.multiply(part, weight, out=self._product[: len(part)], dtype=np.float64)
                    np.add(block, product, out=block)
            self._sums[scope] = chunks
            self._used.add(scope)

    def combine(self, scope: str, base: Float32, total: int, rate: float) -> Float32:
        """`base + rate * sum / total` as a new float32 vector, computed in float64; uses the scope's sum up.

        A large sum gives its memory back chunk by chunk, so that sum and result never stand there whole together.
        """
        result = np.empty(len(base), dtype=np.float32)
        chunks = self._sums.pop(scope)
        keep = 8 * len(base) <= KEPT_BYTES
        for start in range(0, len(base), CHUNK):
            chunk = chunks[start // CHUNK]
            for i in range(0, len(chunk), BLOCK):
                part = base[start + i : start + min(i + BLOCK, len(chunk))]
                step = np.divide(chunk[i : i + BLOCK], total, out=self._product[: len(part)])
                step *= rate
                step += part
                result[start + i : start + i + len(part)] = step
            if not keep:
                del chunk
                chunks[start // CHUNK] = np.empty(0)
        if keep:
            self._sums[scope] = chunks
        self._used.discard(scope)
        return result

    def clear(self) -> None:
        """Forget all sums; the memory of small ones is kept for the next round."""
        self._used.clear()


def _new_chunks(size: int) -> list[Float64]:
    return [np.empty(min(CHUNK, size - start), dtype=np.float64) for start in range(0, size, CHUNK)]
