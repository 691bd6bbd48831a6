"""The streaming mean: one float64 sum per scope, whatever the number of clients."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Protocol

import numpy as np
from numpy.typing import NDArray

from common.parameters.encodings import BLOCK, Block

Float32 = NDArray[np.float32]
Float64 = NDArray[np.float64]

CHUNK = 5 << 20
"""Elements of a sum that are allocated, and given back, together (40 MiB: glibc may keep what is below 32)."""

KEPT_BYTES = 64 << 20
"""Sums up to this size keep their memory between rounds: fresh memory costs page faults."""


class Delta(Protocol):
    """One client's change of one scope: `size` elements, of which `blocks` gives all that are not zero.

    Blocks hold at most BLOCK elements and come with ascending starts, apart from each other.
    """

    @property
    def size(self) -> int:
        """Elements."""
        ...

    def blocks(self) -> Iterator[Block]:
        """Start and float32 elements of each block; a block is valid until the next one is asked for."""
        ...


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

    def fold(self, deltas: Sequence[tuple[str, Delta]], weights: Mapping[str, int]) -> None:
        """Add one client's deltas times its weight in each scope.

        A sum starts at +0.0 and rounds to nearest, so it is never -0.0: a zero of either sign adds nothing to it, and
        blocks that are left out give the same bits as blocks of zeros.
        """
        for scope, delta in deltas:
            chunks = self._sums.get(scope) or _new_chunks(delta.size)
            self._sums[scope] = chunks
            if scope in self._used:
                for start, block in delta.blocks():
                    self._add(chunks, start, block, float(weights[scope]))
            else:
                clear = 0  # elements of the sum that hold this round's values; the others are of the last one
                for start, block in delta.blocks():
                    _clear(chunks, clear, start + len(block))
                    self._add(chunks, start, block, float(weights[scope]))
                    clear = start + len(block)
                _clear(chunks, clear, delta.size)
            self._used.add(scope)

    def _add(self, chunks: list[Float64], start: int, block: Float32, weight: float) -> None:
        """Add a block times `weight`, in passes of one operation over what lies in the cache."""
        product = self._product[: len(block)]
        np.copyto(product, block)
        np.multiply(product, weight, out=product)
        at = start % CHUNK
        room = CHUNK - at
        part = chunks[start // CHUNK][at : at + len(block)]
        np.add(part, product[:room], out=part)
        if len(block) > room:
            rest = chunks[start // CHUNK + 1][: len(block) - room]
            np.add(rest, product[room:], out=rest)

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


def _clear(chunks: list[Float64], start: int, stop: int) -> None:
    """Set elements `start` to `stop` of a sum to +0.0."""
    while start < stop:
        end = min(stop, start - start % CHUNK + CHUNK)
        chunks[start // CHUNK][start % CHUNK : start % CHUNK + end - start] = 0.0
        start = end


def _new_chunks(size: int) -> list[Float64]:
    return [np.empty(min(CHUNK, size - start), dtype=np.float64) for start in range(0, size, CHUNK)]
