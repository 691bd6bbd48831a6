"""How a member's numbers of one circle lie in its answer: counts first, then the cells. No numpy, for the core."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from dataclasses import dataclass

from common.secure.counts import size_of
from common.secure.terms import Circle
from common.tasks import TaskDefinition

COUNTS = "counts"
"""The cell of 64-bit integers: the weight in each cell, then the statistics of each task."""
COUNT_BYTES, VALUE_BYTES = 8, 4


@dataclass(frozen=True)
class CircleLayout:
    """The sizes of a circle's cells."""

    circle: Circle
    counts: int
    """How many 64-bit integers."""
    sizes: tuple[int, ...]
    """How many 32-bit integers each cell has."""
    digest: str
    """Of all that both sides must agree on."""

    @property
    def nbytes(self) -> int:
        """Of one member's numbers."""
        return COUNT_BYTES * self.counts + VALUE_BYTES * sum(self.sizes)


def layout_of(
    circle: Circle, scopes: Mapping[str, tuple[str, int]], tasks: Mapping[str, TaskDefinition]
) -> CircleLayout:
    """The layout of a circle's cells.

    Args:
        circle: which cells.
        scopes: Scope -> digest of its layout and number of its parameters.
        tasks: Definitions by name.
    """
    found = [scopes[cell.scope] for cell in circle.cells]
    counts = len(found) + sum(size_of(tasks[task]) for task in circle.tasks)
    stated = repr((circle, found, counts))
    return CircleLayout(circle, counts, tuple(size for _, size in found), hashlib.sha256(stated.encode()).hexdigest())
