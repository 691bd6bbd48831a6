"""Updates that are longer than allowed are shortened before anything else sees them."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np

from common.parameters.encodings import Block
from common.parameters.schema import ParameterSchema
from server.aggregation.accumulator import Delta


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


def bounded(deltas: Sequence[tuple[str, Delta]], bound: float) -> Sequence[tuple[str, Delta]]:
    """An update whose Euclidean norm over all its scopes together is at most `bound` (Sun et al. 2019, section 4.1).

    A shorter one is given back as it is.
    """
    square = 0.0
    for _, delta in deltas:
        for _, block in delta.blocks():
            wide = block.astype(np.float64)
            square += float(wide @ wide)
    norm = float(np.sqrt(square))
    return deltas if norm <= bound else [(scope, Shortened(delta, bound / norm)) for scope, delta in deltas]
