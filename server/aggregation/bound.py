"""Updates that are longer than allowed are shortened before anything else sees them."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from math import frexp, isfinite, ldexp, sqrt
from types import MappingProxyType

import numpy as np

from common.parameters.encodings import Block
from common.parameters.schema import ParameterSchema
from common.parameters.scope import Scope, ScopeKind
from server.aggregation.accumulator import NOT_BY_TASK, ByTask, Delta

ROUNDED_DOWN = 1.0 - 2.0**-40
"""A factor is made so much smaller that what is rounded on the way to it makes no contribution too long."""
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
    norm = _norm(deltas, MappingProxyType({}))
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
    scales = {scope: head_scale for scope, _ in deltas if Scope.parse(scope).kind is ScopeKind.TASK}
    norm = _norm(deltas, scales)
    if not isfinite(clip):
        return deltas, True
    factor = min(1.0, clip / norm if norm else 1.0) * ROUNDED_DOWN
    grid = ldexp(1.0, frexp(clip)[1] - 1 - CONTRIBUTION_BITS)
    found: list[tuple[str, Delta]] = []
    for scope, delta in deltas:
        copies = len(by_task.get(scope, ())) or 1
        found.append((scope, Contribution(delta, factor / sqrt(copies), grid)))
    return found, norm <= clip


def _norm(deltas: Sequence[tuple[str, Delta]], scales: Mapping[str, float]) -> float:
    """The Euclidean norm of all scopes together, each divided by its scale."""
    square = 0.0
    for scope, delta in deltas:
        scale = scales.get(scope, 1.0)
        for _, block in delta.blocks():
            wide = block.astype(np.float64)
            square += float(wide @ wide) / scale**2
    return sqrt(square)
