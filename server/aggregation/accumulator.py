"""What takes updates in one by one and gives their step at the end: the seam between aggregator and arithmetic."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from types import MappingProxyType
from typing import Protocol, Self

from common.parameters.encodings import Block
from common.parameters.schema import ParameterSchema
from common.parameters.vector import Float64

ByTask = Mapping[str, Mapping[str, int]]
"""Scope -> task -> integer weight, of scopes that are summed task by task."""
NOT_BY_TASK: ByTask = MappingProxyType({})


class Delta(Protocol):
    """One client's change of one scope, as its update brought it."""

    @property
    def schema(self) -> ParameterSchema:
        """The scope's layout and element type."""
        ...

    def blocks(self) -> Iterator[Block]:
        """Start and elements of blocks of at most BLOCK elements, ascending and apart; all that is not zero is in one.

        A block is valid until the next one is asked for.
        """
        ...


@dataclass(frozen=True)
class Summand:
    """One sum of a scope, and how it enters the step: divided by `total`, times `share`. An only sum has no task."""

    task: str
    total: float
    share: float = 1.0


@dataclass(frozen=True)
class Piece:
    """Parameters in a row, by their places in the scope's vector, and the sums that their step is made of."""

    start: int
    stop: int
    summands: Sequence[Summand]


class Accumulator(Protocol):
    """Takes the updates of a round in, whatever becomes of them: a sum, or all of them side by side."""

    def add(
        self,
        order_id: str,
        deltas: Sequence[tuple[str, Delta]],
        weights: Mapping[str, int],
        by_task: ByTask = NOT_BY_TASK,
    ) -> None:
        """Take one client's deltas in, with its integer weight in each scope, or in each task's sum.

        Raises:
            RunFolderError: they are to be kept on disk, and the disk does not take them.
        """
        ...

    def merge(self, other: Self) -> None:
        """Take in all that another one has taken in, as if it had been added here; the other is used up."""
        ...

    def report(self, scope: str, pieces: Sequence[Piece]) -> Iterator[tuple[int, Float64]]:
        """The scope's step, of pieces from its first parameter to its last; uses up what was taken in for it.

        Yields:
            Start and float64 elements of each block, in order; the caller may change a block, which is valid until
            the next one is asked for.
        """
        ...

    def clear(self) -> None:
        """Forget everything."""
        ...
