"""The streaming mean: one float64 sum per scope, or one per task in it, whatever the number of clients."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from types import MappingProxyType
from typing import NamedTuple, Protocol

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


class Part(NamedTuple):
    """One sum of a scope, and how it enters the step: divided by `total`, times `share`. An only sum's `row` is ""."""

    row: str
    total: int
    share: float = 1.0


_NO_ROWS: Mapping[str, Mapping[str, int]] = MappingProxyType({})


class StreamingMean:
    """Weighted sums of deltas; integer weights, divided out once at the end (FedAvg, McMahan et al. 2017).

    A float32 delta has 24 significant bits and a float64 has 53, so a delta times an integer weight below 2^29 is
    exact. With W for the sum of the weights, sums of such products are exact too, in any order, where the largest and
    the smallest change of a parameter that are not zero lie within a factor of 2^29 / W: all partial sums are then
    multiples of the smallest one's last bit with at most 53 bits. Elsewhere each addition rounds by at most 2^-53 of
    the sum, and the order of arrival can show in the last bit of the float32 result, for about one in 2^29 / clients
    of such parameters. The same holds for sums by task, whose weights are the task's examples; what tasks weigh
    against each other multiplies finished sums.
    """

    def __init__(self) -> None:
        self._sums: dict[tuple[str, str], list[Float64]] = {}
        self._used: set[tuple[str, str]] = set()
        self._product = np.empty(BLOCK, dtype=np.float64)

    def fold(
        self,
        deltas: Sequence[tuple[str, Delta]],
        weights: Mapping[str, int],
        rows: Mapping[str, Mapping[str, int]] = _NO_ROWS,
    ) -> None:
        """Add one client's deltas times its weight in each scope, or in each row of a scope that is in `rows`.

        A sum starts at +0.0 and rounds to nearest, so it is never -0.0: a zero of either sign adds nothing to it, and
        blocks that are left out give the same bits as blocks of zeros.
        """
        for scope, delta in deltas:
            if scope in rows:
                for row, weight in rows[scope].items():
                    self._fold((scope, row), delta, float(weight))
            else:
                self._fold((scope, ""), delta, float(weights[scope]))

    def _fold(self, key: tuple[str, str], delta: Delta, weight: float) -> None:
        chunks = self._sums.get(key) or _new_chunks(delta.size)
        self._sums[key] = chunks
        if key in self._used:
            for start, block in delta.blocks():
                self._add(chunks, start, block, weight)
        else:
            clear = 0  # elements of the sum that hold this round's values; the others are of the last one
            for start, block in delta.blocks():
                _clear(chunks, clear, start + len(block))
                self._add(chunks, start, block, weight)
                clear = start + len(block)
            _clear(chunks, clear, delta.size)
        self._used.add(key)

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
        """`base + rate * sum / total` as a new float32 vector, computed in float64; uses the scope's sum up."""
        result = np.empty(len(base), dtype=np.float32)
        for start, step in self.steps(scope, [Part("", total)]):
            step *= rate
            step += base[start : start + len(step)]
            result[start : start + len(step)] = step
        return result

    def steps(self, scope: str, parts: Sequence[Part]) -> Iterator[tuple[int, Float64]]:
        """The scope's step, the sum over its parts of share times sum divided by total; uses the sums up.

        Large sums give their memory back chunk by chunk, so that sums and what is made of them never stand there whole
        together.

        Yields:
            Start and float64 elements of each block, in order; the caller may change a block, which is valid until
            the next one is asked for.
        """
        keys = [(scope, part.row) for part in parts]
        sums = [self._sums.pop(key) for key in keys]
        size = sum(map(len, sums[0]))
        keep = 8 * size <= KEPT_BYTES
        other = np.empty(BLOCK, dtype=np.float64) if len(parts) > 1 else self._product
        for chunk in range(len(sums[0])):
            length = len(sums[0][chunk])
            for i in range(0, length, BLOCK):
                step = _weighted(sums[0][chunk][i : i + BLOCK], parts[0], self._product)
                for chunks, part in zip(sums[1:], parts[1:], strict=True):
                    step += _weighted(chunks[chunk][i : i + BLOCK], part, other)
                yield chunk * CHUNK + i, step
            if not keep:
                for chunks in sums:
                    chunks[chunk] = np.empty(0)
        if keep:
            self._sums |= dict(zip(keys, sums, strict=True))
        self._used.difference_update(keys)

    def gram(self, scope: str, parts: Sequence[Part]) -> Float64:
        """Inner products of the parts' means (shares apart), (parts, parts) float64, added up block by block."""
        sums = [self._sums[scope, part.row] for part in parts]
        means = np.empty((len(parts), BLOCK), dtype=np.float64)
        total = np.zeros((len(parts), len(parts)), dtype=np.float64)
        for chunk in range(len(sums[0])):
            length = len(sums[0][chunk])
            for i in range(0, length, BLOCK):
                block = means[:, : min(BLOCK, length - i)]
                for row, chunks, part in zip(block, sums, parts, strict=True):
                    np.divide(chunks[chunk][i : i + BLOCK], part.total, out=row)
                total += block @ block.T
        return total

    def clear(self) -> None:
        """Forget all sums; the memory of small ones is kept for the next round."""
        self._used.clear()


def _weighted(sums: Float64, part: Part, out: Float64) -> Float64:
    """Share times sum divided by total, in the memory of `out`."""
    step = np.divide(sums, part.total, out=out[: len(sums)])
    if part.share != 1.0:
        step *= part.share
    return step


def _clear(chunks: list[Float64], start: int, stop: int) -> None:
    """Set elements `start` to `stop` of a sum to +0.0."""
    while start < stop:
        end = min(stop, start - start % CHUNK + CHUNK)
        chunks[start // CHUNK][start % CHUNK : start % CHUNK + end - start] = 0.0
        start = end


def _new_chunks(size: int) -> list[Float64]:
    return [np.empty(min(CHUNK, size - start), dtype=np.float64) for start in range(0, size, CHUNK)]
