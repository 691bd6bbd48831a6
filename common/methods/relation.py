"""What a relation sees of the members of a scope template, and what it answers: combinations of what they hold."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, ClassVar

import numpy as np
from numpy.typing import NDArray

from common.bodies import ProbedRows
from common.methods.choice import LARGEST, Row
from common.wire.limits import MAX_CLIENTS

Float64 = NDArray[np.float64]

LARGEST_MU = LARGEST * MAX_CLIENTS
"""Of a proximal term in an order: the largest strength along links of weight 1 to as many members as there may be."""


@dataclass(frozen=True)
class CandidateScore:
    """What a member's clients said of a candidate, on their own rows."""

    rows: int
    loss: float
    """Mean over rows."""
    gain: float
    """Mean of the first candidate's loss less this one's."""
    error: float
    """Standard error of the gain; infinite where there are fewer than two rows."""


Scores = Mapping[str, Mapping[str, CandidateScore]]
"""By member and name of the candidate."""


@dataclass(frozen=True)
class Members:
    """The members of a scope template after a round, K of them by name."""

    ids: tuple[str, ...]
    examples: Float64
    """(K,) examples that were trained on; 0 for members whom the round did not reach."""
    products: Float64
    """Inner products of rows: the members' values, less their mean, then the duals and the candidates that the relation
    keeps, and, where it sees moves, the template's first values as they are."""
    steps: Float64
    """(K, K) inner products of the round's steps."""
    size: int
    """Parameters of one member."""
    duals: tuple[tuple[str, str], ...] = ()
    """(member, other member) of each dual, in the order of the rows."""
    candidates: tuple[str, ...] = ()
    """The name of each candidate, in the order of the rows, after the duals."""
    scores: Scores = field(default_factory=dict)
    """What was said of candidates in this round, by members whom it reached."""
    state: Mapping[str, Any] = field(default_factory=dict)
    """What the relation wanted to remember the last time."""
    moves: Float64 | None = None
    """(K, K) inner products of the members' moves from the first values, of a relation that sees them. Every layer, an
    entry of the schema, is first divided by its root mean squared length over members, so that none decides alone."""
    lengths: Float64 = field(default_factory=lambda: np.empty(0))
    """(K,) Euclidean lengths of the moves as they are."""
    passed: float = 1.0
    """The share of the run's rounds that are over, this one included."""
    height: float = 0.0
    """Where in the model the template lies: 0 is the lowest block that members have copies of, 1 the top."""

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
    candidates: Mapping[str, Float64] = field(default_factory=dict)
    """What may be offered before the next round, by name, as coefficients; those of before are gone."""
    newcomer: Float64 | None = None
    """What newcomers begin with, as coefficients; None: the mean of all."""
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
    averages: ClassVar[bool] = False
    """Whether members start from means of those who are one, so that `aggregation.scale` is read."""
    probes: ClassVar[ProbedRows | None] = None
    """The rows on which clients compare candidates; None: there are none."""
    whole_models: ClassVar[bool] = False
    """Whether candidates of one name, of all templates, are one model; else each block is compared by itself."""
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

    def first_candidates(self) -> Mapping[str, float]:
        """Candidates that there are from the start: how far each is drawn away from the first values, from 0 to 1."""
        return {}

    def offered(self, state: Mapping[str, Any], member: str) -> Sequence[str]:
        """The candidates that a member compares before the next round, by what was remembered of a template."""
        return ()

    def chosen(self, scores: Mapping[str, CandidateScore]) -> str | None:
        """The candidate from which a member starts that gave these scores; None: from its own copy."""
        return None

    def named_members(self) -> list[tuple[str, str]]:
        """(parameter, member) for each member that the parameters name."""
        return []
