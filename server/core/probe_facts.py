"""What came of a phase in which clients compare candidates. Values only."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

from common.methods.relation import Scores


@dataclass(frozen=True)
class Probed:
    """What a round's relation hears of its candidates."""

    starts: Mapping[str, str] = field(default_factory=dict)
    """The candidate from which a member's scope was trained, where that was not its own copy."""
    scores: Mapping[str, Scores] = field(default_factory=dict)
    """By template."""


NOT_PROBED = Probed()
