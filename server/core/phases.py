"""Where a run stands, and the phases of its rounds."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from enum import StrEnum


class Phase(StrEnum):
    """Where a run stands."""

    WAITING = "waiting"
    TRAINING = "training"
    EVALUATING = "evaluating"
    FINISHED = "finished"
    FAILED = "failed"


ENDED = frozenset({Phase.FINISHED, Phase.FAILED})


@dataclass(frozen=True)
class RoundPhase:
    """What all open orders of a round are about."""

    name: str
    """Begins the ids of its orders, and names it in the journal."""
    during: Phase
    """Where the run stands meanwhile."""
    publishes: bool
    """Whether its answers make the next version."""


TRAIN = RoundPhase("train", Phase.TRAINING, publishes=True)
EVALUATE = RoundPhase("evaluate", Phase.EVALUATING, publishes=False)

ROUND_PHASES: Mapping[str, RoundPhase] = {phase.name: phase for phase in (TRAIN, EVALUATE)}
"""By name."""
