"""Updates that are longer than allowed are shortened before anything else sees them."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from math import frexp, isfinite, ldexp

import numpy as np

from common.parameters.encodings import Block
from common.parameters.schema import ParameterSchema
from common.parameters.vector import square_of
from common.privacy.clipping import Clip, shared_out
from server.aggregation.accumulator import NOT_BY_TASK, ByTask, Delta

CONTRIBUTION_BITS = 32
"""Contributions are multiples of the clip's power of two, so many bits below it."""


@dataclass(frozen=True)
class Shortened:
    """A delta times a factor below 1, rounded to its type.

    Because of the rounding it is one more float32 delta: its weight stays an integer, and the order of arrival leaves
    as little trace in the sums as without a bound.
    """

    delta: Delta
    factor: float

    @property
    def schema(self) -> ParameterSchema:
        """See `Delta.schema`."""
        return self.delta.schema

    def blocks(self) -> Iterator[Block]:
        """See `Delta.blocks`."""
        for start, block in self.delta.blocks():
            yield start, (block.astype(np.float64) * self.factor).astype(block.dtype)


@dataclass(frozen=True)
class Contribution:
    """A delta times a factor of at most 1, as float64 multiples of a grid, a power of two; what is less is dropped.

    Sums of up to 2^20 of them are exact, hence the same in any order of arrival: noise is a function of all bits of the
    sum that it hides.
    """

    delta: Delta
    factor: float
    grid: float

    @property
    def schema(self) -> ParameterSchema:
        """See `Delta.schema`."""
        return self.delta.schema

    def blocks(self) -> Iterator[Block]:
        """See `Delta.blocks`."""
        for start, block in self.delta.blocks():
            units = np.trunc(block.astype(np.float64) * (self.factor / self.grid))
            yield start, units * self.grid


def bounded(deltas: Sequence[tuple[str, Delta]], bound: float) -> Sequence[tuple[str, Delta]]:
    """An update whose Euclidean norm over all its scopes together is at most `bound` (Sun et al. 2019, section 4.1).

    A shorter one is given back as it is.
    """
    norm = Clip(bound).norm(_squares(deltas))
    return deltas if norm <= bound else [(scope, Shortened(delta, bound / norm)) for scope, delta in deltas]


def clipped(
    deltas: Sequence[tuple[str, Delta]], clip: float, head_scale: float, by_task: ByTask = NOT_BY_TASK
) -> tuple[Sequence[tuple[str, Delta]], bool]:
    """An update as one contribution to all sums under noise: together they move by at most `clip`, whatever came.

    Lengths of scopes of single tasks count divided by `head_scale`. In a scope with a sum for each of its T tasks the
    delta stands in all of them, hence times 1/sqrt(T). Everything is rounded down. An infinite clip changes nothing.

    Returns:
        What to add, and whether it was within the clip as it came.
    """
    wanted = Clip(clip, head_scale)
    norm = wanted.norm(_squares(deltas))
    if not isfinite(clip):
        return deltas, True
    factor = wanted.factor(norm)
    grid = ldexp(1.0, frexp(clip)[1] - 1 - CONTRIBUTION_BITS)
    found: list[tuple[str, Delta]] = []
    for scope, delta in deltas:
        copies = len(by_task.get(scope, ())) or 1
        found.append((scope, Contribution(delta, shared_out(factor, copies), grid)))
    return found, norm <= clip


def _squares(deltas: Sequence[tuple[str, Delta]]) -> Iterator[tuple[str, float]]:
    """The sums of squares of all blocks."""
    for scope, delta in deltas:
        for _, block in delta.blocks():
            yield scope, square_of(block)
