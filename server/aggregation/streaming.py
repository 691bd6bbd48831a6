"""The streaming mean: one float64 sum per scope, or one per task in it, whatever the number of clients."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Self

import numpy as np

from common.parameters.encodings import BLOCK
from common.parameters.schema import ElementType
from common.parameters.vector import Float64, Vector
from server.aggregation.accumulator import NOT_BY_TASK, ByTask, Delta, Piece, Summand

CHUNK = 5 << 20
"""Elements of a sum that are allocated, and given back, together (40 MiB: glibc may keep what is below 32)."""

KEPT_BYTES = 64 << 20
"""Sums up to this size keep their memory between rounds: fresh memory costs page faults."""


class StreamingMean:
    """Weighted sums of deltas; integer weights, divided out once at the end (FedAvg, McMahan et al. 2017).

    A float32 delta has 24 significant bits and a float64 has 53, so a delta times an integer weight below 2^29 is
    exact. With W for the sum of the weights, sums of such products are exact too, in any order, where the largest and
    the smallest change of a parameter that are not zero lie within a factor of 2^29 / W: all partial sums are then
    multiples of the smallest one's last bit with at most 53 bits. Elsewhere each addition rounds by at most 2^-53 of
    the sum, and the order of arrival can show in the last bit of the float32 result, for about one in 2^29 / clients
    of such parameters. The same holds for sums by task, whose weights are the task's examples; what tasks weigh
    against each other multiplies finished sums. In float64 scopes every product rounds so; what additions round off
    is added up beside the sum (Knuth's TwoSum), so that the order shows there no more than elsewhere.
    """

    def __init__(self) -> None:
        self._sums: dict[tuple[str, str], list[Float64]] = {}
        self._rest: dict[tuple[str, str], list[Float64]] = {}
        """What additions to sums of float64 scopes rounded off."""
        self._used: set[tuple[str, str]] = set()
        self._product = np.empty(BLOCK, dtype=np.float64)

    def add(
        self,
        order_id: str,
        deltas: Sequence[tuple[str, Delta]],
        weights: Mapping[str, int],
        by_task: ByTask = NOT_BY_TASK,
    ) -> None:
        """Add one client's deltas times its weight in each scope, or in each task's sum of a scope in `by_task`.

        A sum starts at +0.0 and rounds to nearest, so it is never -0.0: a zero of either sign adds nothing to it, and
        blocks that are left out give the same bits as blocks of zeros.
        """
        for scope, delta in deltas:
            for task, weight in (by_task[scope] if scope in by_task else {"": weights[scope]}).items():
                self._add_to((scope, task), delta, float(weight))

    def _add_to(self, key: tuple[str, str], delta: Delta, weight: float) -> None:
        size = delta.schema.size
        chunks = self._sums.get(key) or _new_chunks(size)
        self._sums[key] = chunks
        if delta.schema.dtype is ElementType.FLOAT64:
            self._add_exactly(key, delta, weight)
            return
        if key in self._used:
            for start, block in delta.blocks():
                self._add(chunks, start, block, weight)
        else:
            clear = 0  # elements of the sum that hold this round's values; the others are of the last one
            for start, block in delta.blocks():
                _clear(chunks, clear, start + len(block))
                self._add(chunks, start, block, weight)
                clear = start + len(block)
            _clear(chunks, clear, size)
        self._used.add(key)

    def _add_exactly(self, key: tuple[str, str], delta: Delta, weight: float) -> None:
        """Add to the sum of a float64 scope, and to its rest what that rounds off."""
        sums, size = self._sums[key], delta.schema.size
        rest = self._rest.setdefault(key, _new_chunks(size))
        if key not in self._used:
            _clear(sums, 0, size)
            _clear(rest, 0, size)
        for start, block in delta.blocks():
            done = 0
            while done < len(block):
                chunk, at = divmod(start + done, CHUNK)
                value = block[done : done + CHUNK - at] * weight
                end = at + len(value)
                _two_sum(sums[chunk][at:end], rest[chunk][at:end], value)
                done += len(value)
        self._used.add(key)

    def _add(self, chunks: list[Float64], start: int, block: Vector, weight: float) -> None:
        """Add a block times `weight`, in passes of one operation over what lies in the cache."""
        product = self._product[: len(block)]
        np.copyto(product, block)
        np.multiply(product, weight, out=product)
        at = start % CHUNK
        room = CHUNK - at
        here = chunks[start // CHUNK][at : at + len(block)]
        np.add(here, product[:room], out=here)
        if len(block) > room:
            rest = chunks[start // CHUNK + 1][: len(block) - room]
            np.add(rest, product[room:], out=rest)

    def merge(self, other: Self) -> None:
        """See `Accumulator.merge`: sums are added, exactly where those of single updates are."""
        for key in other._used:
            theirs = other._sums.pop(key)
            if key in self._used:
                for place, (mine, chunk) in enumerate(zip(self._sums[key], theirs, strict=True)):
                    if key in self._rest:
                        _two_sum(mine, self._rest[key][place], chunk)
                        self._rest[key][place] += other._rest[key][place]
                    else:
                        mine += chunk
            else:
                self._sums[key] = theirs
                if key in other._rest:
                    self._rest[key] = other._rest.pop(key)
                self._used.add(key)
        other._used.clear()

    def report(self, scope: str, pieces: Sequence[Piece]) -> Iterator[tuple[int, Float64]]:
        """See `Accumulator.report`: in each piece the sum over its summands of share times sum divided by total.

        Large sums give their memory back chunk by chunk, so that sums and what is made of them never stand there whole
        together.
        """
        tasks = dict.fromkeys(summand.task for piece in pieces for summand in piece.summands)
        sums = {task: self._sums.pop((scope, task)) for task in tasks}
        for task, found in sums.items():
            for part, lost in zip(found, self._rest.get((scope, task), ()), strict=False):
                part += lost
        whole = next(iter(sums.values()))
        keep = 8 * sum(map(len, whole)) <= KEPT_BYTES
        other = np.empty(BLOCK, dtype=np.float64) if len(tasks) > 1 else self._product
        for chunk, length in enumerate(map(len, list(whole))):
            first = chunk * CHUNK
            for piece in pieces:
                for start, stop in _blocks(piece.start - first, piece.stop - first, length):
                    parts = [sums[summand.task][chunk][start:stop] for summand in piece.summands]
                    step = _weighted(parts[0], piece.summands[0], self._product)
                    for part, summand in zip(parts[1:], piece.summands[1:], strict=True):
                        step += _weighted(part, summand, other)
                    yield first + start, step
            if not keep:
                for chunks in sums.values():
                    chunks[chunk] = np.empty(0)
        keys = [(scope, task) for task in tasks]
        if keep:
            self._sums |= dict(zip(keys, sums.values(), strict=True))
        self._used.difference_update(keys)

    def gram(self, scope: str, piece: Piece) -> Float64:
        """Inner products of the summands' means (shares apart), (summands, summands), added up block by block."""
        summands = piece.summands
        sums = [self._sums[scope, summand.task] for summand in summands]
        means = np.empty((len(summands), BLOCK), dtype=np.float64)
        total = np.zeros((len(summands), len(summands)), dtype=np.float64)
        for chunk, length in enumerate(map(len, sums[0])):
            first = chunk * CHUNK
            for start, stop in _blocks(piece.start - first, piece.stop - first, length):
                block = means[:, : stop - start]
                for mean, chunks, summand in zip(block, sums, summands, strict=True):
                    np.divide(chunks[chunk][start:stop], summand.total, out=mean)
                total += block @ block.T
        return total

    def whole(self, scope: str, task: str, size: int) -> list[Float64]:
        """The sum as it stands, in chunks that may be changed in place; zeros where nothing was added."""
        key = scope, task
        chunks = self._sums.get(key) or _new_chunks(size)
        if key not in self._used:
            _clear(chunks, 0, size)
        for chunk, lost in zip(chunks, self._rest.get(key, ()), strict=False):
            if key in self._used:
                chunk += lost
            lost[:] = 0.0
        self._sums[key] = chunks
        self._used.add(key)
        return chunks

    def clear(self) -> None:
        """Forget all sums; the memory of small ones is kept for the next round."""
        self._used.clear()


def _blocks(start: int, stop: int, length: int) -> Iterator[tuple[int, int]]:
    """From `start` to `stop`, as far as both lie in a chunk of so many elements, in blocks of at most BLOCK."""
    stop = min(stop, length)
    for i in range(max(start, 0), stop, BLOCK):
        yield i, min(i + BLOCK, stop)


def _weighted(sums: Float64, summand: Summand, out: Float64) -> Float64:
    """Share times sum divided by total, in the memory of `out`."""
    step = np.divide(sums, summand.total, out=out[: len(sums)])
    if summand.share != 1.0:
        step *= summand.share
    return step


def _two_sum(total: Float64, lost: Float64, value: Vector) -> None:
    """Add to a sum, and what the addition rounds off, exactly, to what was lost (Knuth, TAOCP 2, 4.2.2)."""
    new = total + value
    shown = new - total
    lost += (total - (new - shown)) + (value - shown)
    total[:] = new


def _clear(chunks: list[Float64], start: int, stop: int) -> None:
    """Set elements `start` to `stop` of a sum to +0.0."""
    while start < stop:
        end = min(stop, start - start % CHUNK + CHUNK)
        chunks[start // CHUNK][start % CHUNK : start % CHUNK + end - start] = 0.0
        start = end


def _new_chunks(size: int) -> list[Float64]:
    return [np.empty(min(CHUNK, size - start), dtype=np.float64) for start in range(0, size, CHUNK)]
