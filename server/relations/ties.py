"""What a relation sees of the members of a template, and what it answers: linear combinations of what they hold."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from numpy.typing import NDArray

Float64 = NDArray[np.float64]


@dataclass(frozen=True)
class Members:
    """The members of a template after a round, K of them by name.

    `examples` (K,) are those that were trained on, 0 for members whom the round did not reach. `products` are the inner
    products of rows: the members' values, less their mean, then the duals that the relation keeps, in the order of
    `duals` (member, other member). `steps` (K, K) are those of the round's steps. `size` counts a member's parameters,
    `state` is what the relation wanted to remember the last time.
    """

    holders: tuple[str, ...]
    examples: Float64
    products: Float64
    steps: Float64
    size: int
    duals: tuple[tuple[str, str], ...] = ()
    state: Mapping[str, Any] = field(default_factory=dict)

    @property
    def count(self) -> int:
        """K."""
        return len(self.holders)


@dataclass(frozen=True)
class Ties:
    """Where members start, what they are pulled to and how strongly: (start, anchor, mu).

    `start` and `anchor` are coefficients over the rows of `Members.products`, (K, rows), of which those of the members
    sum to 1 in each row; None: they start where they are, or have no anchor. `mu` is (K,). `duals` are the new duals as
    coefficients, of which those of the members sum to 0. `state` is kept as JSON until the next round; `note` tells
    people what changed.
    """

    start: Float64 | None = None
    anchor: Float64 | None = None
    mu: Float64 = field(default_factory=lambda: np.empty(0))
    duals: Mapping[tuple[str, str], Float64] = field(default_factory=dict)
    state: Mapping[str, Any] = field(default_factory=dict)
    note: str = ""


Relation = Callable[[Members], Ties]
