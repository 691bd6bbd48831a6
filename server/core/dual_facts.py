"""What a run knows that solves the dual of linear heads (MOCHA: Smith et al., NeurIPS 2017). Values only."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

from common.methods.procedures import SDCA
from common.methods.relation import Relation


@dataclass(frozen=True)
class DualSettings:
    """What does not change during a run."""

    solver: SDCA
    relation: Relation | None
    """What relates heads; None: they are independent."""
    stop_at_gap: float | None = None
    """The run ends once the duality gap of a version is at most this."""
    stretch: float = 1.0
    """Squared length of a problem's weights in squared lengths of its head: one of two labels holds halves, twice."""


@dataclass(frozen=True)
class HeadRows:
    """What the losses of a head are means over."""

    rows: int
    clients: int
    """That hold them."""


@dataclass(frozen=True)
class Relationship:
    """How heads depend on each other in a published version; mappings are by the heads' scopes."""

    heads: Mapping[str, HeadRows]
    variances: Mapping[str, float]
    """The diagonal of the relationship matrix Sigma."""
    coupling: float
    """How much stronger local penalties are, so that heads may move at the same time (sigma prime)."""
    penalty: float
    """tr(W Omega W') of the version."""
    moved: Mapping[str, float] = field(default_factory=dict)
    """How far weights went from the version before, Euclidean."""


@dataclass(frozen=True)
class Block:
    """What a client said last of its rows of a head."""

    rows: int
    solved: int = 0
    """The round that its dual variables are from; 0: they are all 0."""
    value: float = 0.0
    """Minus their conjugate losses; all losses here have 0 at 0."""
    loss: float | None = None
    """Of the version that it was asked with last; None: it was never asked."""
    lengths: float = 0.0
    squares: float = 0.0
    moved: float = 0.0
    """How far the head's weights went since, along their path."""


@dataclass(frozen=True)
class Certificate:
    """That a version is within `gap` of the optimum: what it comes to, and a bound from below."""

    version: int
    primal: float
    """An upper bound where `silent` clients said nothing of this version."""
    dual: float
    silent: int = 0

    @property
    def gap(self) -> float:
        """How much the objective can still fall, at most."""
        return self.primal - self.dual


@dataclass(frozen=True)
class Dual:
    """Where a dual method stands after a round; journalled in the commit that publishes the version."""

    number: int
    """The round; also the version that is described."""
    relationship: Relationship
    blocks: Mapping[str, Mapping[str, Block]]
    """By head scope and client."""
    certificate: Certificate | None = None
    """The newest, which is of the version before, or of this one once it is scored; a record by itself."""
