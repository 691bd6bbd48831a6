"""What everything that is shared can be pulled to during training, besides what a relation or a procedure asks for."""

from __future__ import annotations

from dataclasses import dataclass

from common.methods.choice import Row, Strength, table


@dataclass(frozen=True)
class Anchor(Row):
    """Base of anchors: a proximal term (strength/2) ||theta - anchor||^2 in every client's loss."""

    strength: Strength = 0.1
    """of the pull"""


@dataclass(frozen=True)
class StartAnchor(Anchor):
    """L2-SP (Li et al. 2018): the run's first values, those of a warm start for instance; for every plan."""

    name = "start"


ANCHORS: dict[str, type[Anchor]] = table(StartAnchor)
