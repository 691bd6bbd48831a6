"""How long updates are, measured as they pass by on their way into the sums."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np

from common.parameters.encodings import Block
from common.parameters.schema import ParameterSchema
from server.aggregation.accumulator import Delta


@dataclass
class Measured:
    """A delta that adds up the squares of what is read of it; `square` is that of the last reading."""

    delta: Delta
    square: float = 0.0

    @property
    def schema(self) -> ParameterSchema:
        """See `Delta.schema`."""
        return self.delta.schema

    def blocks(self) -> Iterator[Block]:
        """See `Delta.blocks`."""
        self.square = 0.0
        for start, block in self.delta.blocks():
            with np.errstate(over="ignore"):
                square = float(np.dot(block, block))  # as it is: at the speed of memory, and precise enough
            if not math.isfinite(square):
                wide = block.astype(np.float64)
                square = float(np.dot(wide, wide))
            self.square += square
            yield start, block


def length_of(parts: Sequence[Measured]) -> float:
    """The Euclidean norm of all parts of an update together."""
    return math.sqrt(sum(part.square for part in parts))
