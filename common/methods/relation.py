"""What a relation sees of the members of a scope template, and what it answers: combinations of what they hold."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any, ClassVar

import numpy as np
from numpy.typing import NDArray

from common.methods.choice import LARGEST, Row
from common.wire.limits import MAX_CLIENTS

Float64 = NDArray[np.float64]

LARGEST_MU = LARGEST * MAX_CLIENTS
"""Of a proximal term in an order: the largest strength along links of weight 1 to as many members as there may be."""


@dataclass(frozen=True)
class Members:
    """The members of a scope template after a round, K of them by name."""

    ids: tuple[str, ...]
    examples: Float64
    """(K,) examples that were trained on; 0 for members whom the round did not reach."""
    products: Float64
    """Inner products of rows: the members' values, less their mean, then the duals that the relation keeps, and, where
    it sees moves, the template's first values as they are."""
    steps: Float64
    """(K, K) inner products of the round's steps."""
    size: int
    """Parameters of one member."""
    duals: tuple[tuple[str, str], ...] = ()
    """(member, other member) of each dual, in the order of the rows."""
    state: Mapping[str, Any] = field(default_factory=dict)
    """What the relation wanted to remember the last time."""
    moves: Float64 | None = None
    """(K, K) inner products of the members' moves from the first values, of a relation that sees them. Every layer, an
    entry of the schema, is first divided by its root mean squared length over members, so that none decides alone."""
    lengths: Float64 = field(default_factory=lambda: np.empty(0))
    """(K,) Euclidean lengths of the moves as they are."""

    @property
    def count(self) -> int:
        """K."""
        return len(self.ids)


@dataclass(frozen=True)
class Coupling:
    """Where members start, what they are pulled to and how strongly: (start, anchor, mu)."""

    start: Float64 | None = None
    """(K, rows) coefficients over the rows of `Members.products`, those of the members sum to 1; None: as they are."""
    anchor: Float64 | None = None
    """The same of what members are pulled to; None: nothing."""
    mu: Float64 = field(default_factory=lambda: np.empty(0))
    """(K,) strengths of the proximal terms (mu/2) ||theta - anchor||^2."""
    duals: Mapping[tuple[str, str], Float64] = field(default_factory=dict)
    """New duals as coefficients, of which those of the members sum to 0."""
    state: Mapping[str, Any] = field(default_factory=dict)
    """Kept as JSON until the next round."""
    note: str = ""
    """Tells people what changed."""


Couple = Callable[[Members], Coupling]


class Relation(Row):
    """How the copies of members act on each other: after each round it is called with what they hold."""

    has_anchors: ClassVar[bool] = False
    """Whether members are pulled to anchors, so that `training.proximal_step` is read."""
    sees_moves: ClassVar[bool] = False
    """Whether it is told how members moved from the first values, which the coordinator then keeps as a row."""
    stands_losing_members: ClassVar[bool] = False
    """Whether it may go on when tasks fall back to isolated models: nobody is pulled to a copy that stays behind."""

    def __call__(self, members: Members) -> Coupling:
        """What becomes of the members."""
        raise NotImplementedError

    def largest_mu(self, members: int) -> float:
        """The strongest proximal term among so many members."""
        return 0.0

    def covariance(self, ids: tuple[str, ...], gram: Float64 | None) -> Float64 | None:
        """What the relation says of members as a covariance of trace 1, for methods that work with it directly.

        Args:
            ids: the members, m of them, in the order of rows and columns.
            gram: (m, m) inner products of their models, of which a learned relation is made; None before there are any.

        Returns:
            Sigma, (m, m), of `common.methods.covariance`; None: it is no quadratic penalty tr(W Sigma^-1 W').
        """
        return None

    @property
    def learns(self) -> bool:
        """Whether the covariance follows from the models, see `learns_after`."""
        return False

    def learns_after(self, rounds: int) -> bool:
        """Whether the covariance is to be made anew, of the models as they are, after so many rounds."""
        return False

    def named_members(self) -> list[tuple[str, str]]:
        """(parameter, member) for each member that the parameters name."""
        return []
