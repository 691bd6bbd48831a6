"""Where a run stands, and the phases of its rounds.

Theory of operation. A run waits until it can hold a round, holds one round after the other, and ends. One step may
close a round and open the next, so a phase may follow itself; `TRANSITIONS` has what may follow what.

- WAITING: no round is open, because clients, tasks or updates are missing. It ends when enough clients are there, or
  the run fails. Durable with the commit that closes the last round without opening another.
- TRAINING: orders are out, answers are folded in memory. It ends when all answers are in, or at the deadline. Durable
  before anybody hears of the orders: they are in the commit that opens the round.
  Its round may have several phases (`RoundProtocol`). A phase ends as above; then one commit holds its answers and the
  orders of the next one, for the clients that answered. A restart issues the orders of the open phase again.
- EVALUATING: the same for the scores of the last published model; no quorum is needed.
- FINISHED: clients hear that the run is over. Durable with the commit that closes the scoring round. A restart that
  asks for more rounds goes on from here.
- FAILED: clients hear why. Durable with the commit that closes the last attempt. A restart tries again.

A round to train that has its quorum closes in two steps. The first ends with the effect `Combine`, and what that comes
to is the next event. After `Combined` the version is stored, one commit closes this round, opens the next and records
what was measured, the version is installed, and parked polls are woken, in this order: whatever effect the process dies
at, either all of the round is durable or its orders are outstanding again, and clients send their answers once more.
After `VersionSpoiled` nothing is stored and the attempt is abandoned, as without a quorum.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from enum import StrEnum
from itertools import pairwise


class Phase(StrEnum):
    """Where a run stands."""

    WAITING = "waiting"
    TRAINING = "training"
    EVALUATING = "evaluating"
    FINISHED = "finished"
    FAILED = "failed"


ENDED = frozenset({Phase.FINISHED, Phase.FAILED})

_GOES_ON = frozenset({Phase.WAITING, Phase.TRAINING, Phase.EVALUATING, Phase.FAILED})

TRANSITIONS: Mapping[Phase, frozenset[Phase]] = {
    Phase.WAITING: _GOES_ON,
    Phase.TRAINING: _GOES_ON,
    Phase.EVALUATING: _GOES_ON | {Phase.FINISHED},
    Phase.FINISHED: _GOES_ON | {Phase.FINISHED},
    Phase.FAILED: _GOES_ON,
}
"""Where a run may stand after one step."""


class StageKind(StrEnum):
    """What a stage of a masked round brings."""

    KEYS = "keys"
    SHARES = "shares"
    CONFIRM = "confirm"
    UNMASK = "unmask"


@dataclass(frozen=True)
class RoundPhase:
    """What all open orders of a round are about."""

    name: str
    """Begins the ids of its orders, and names it in the journal."""
    during: Phase
    """Where the run stands meanwhile."""
    publishes: bool
    """Whether its answers make the next version."""
    needs_quorum: bool = True
    """Whether the round is abandoned where too few answers come."""
    stage: StageKind | None = None
    """What its answers do for masks: none of them settles an update, and nothing of them outlives the round."""

    @property
    def is_stage(self) -> bool:
        """Whether its answers serve masks alone."""
        return self.stage is not None


PROBE = RoundPhase("probe", Phase.TRAINING, publishes=False)
TRAIN = RoundPhase("train", Phase.TRAINING, publishes=True)
SOLVE = RoundPhase("solve", Phase.TRAINING, publishes=True)
EVALUATE = RoundPhase("evaluate", Phase.EVALUATING, publishes=False, needs_quorum=False)


def _stage(kind: StageKind, during: Phase = Phase.TRAINING) -> RoundPhase:
    """A stage of a round to train, or of one to score; the latter goes on however few answer."""
    trains = during is Phase.TRAINING
    needs_quorum = trains and kind in (StageKind.KEYS, StageKind.SHARES)
    return RoundPhase(kind.value if trains else f"score{kind.value}", during, False, needs_quorum, kind)


KEYS, SHARES, CONFIRM, UNMASK = map(_stage, StageKind)
SCORE_KEYS, SCORE_SHARES, SCORE_CONFIRM, SCORE_UNMASK = (_stage(kind, Phase.EVALUATING) for kind in StageKind)


@dataclass(frozen=True)
class RoundProtocol:
    """The phases of a round, in order; of those that are no stages, the last one brings what the round is for."""

    phases: tuple[RoundPhase, ...]

    def __post_init__(self) -> None:
        """Updates are folded in memory until sums are stored, so only one phase may take them."""
        if any(phase.publishes for phase in [phase for phase in self.phases if not phase.is_stage][:-1]):
            raise ValueError("of a round's phases only the last one that is no stage publishes")

    def after(self, phase: RoundPhase) -> RoundPhase | None:
        """What follows a phase, or None where its end closes the round."""
        return dict(pairwise(self.phases)).get(phase)


PLAIN = RoundProtocol((TRAIN,))
"""Train, and publish what came of it."""

PROBING = RoundProtocol((PROBE, TRAIN))
"""Compare candidates, then train; the first is left out of rounds in which nothing is offered."""

DUAL = RoundProtocol((SOLVE,))
"""The same by solving dual problems."""

SCORING = RoundProtocol((EVALUATE,))
"""Score the published version."""

MASKED = RoundProtocol((KEYS, SHARES, TRAIN, UNMASK))
"""Train; updates come masked, and what is opened are their sums."""

MASKED_PINNED = RoundProtocol((KEYS, SHARES, TRAIN, CONFIRM, UNMASK))
"""The same where clients know each other's identities."""

MASKED_SCORING = RoundProtocol((SCORE_KEYS, SCORE_SHARES, EVALUATE, SCORE_UNMASK))
"""Score the published version; scores come masked."""

MASKED_PINNED_SCORING = RoundProtocol((SCORE_KEYS, SCORE_SHARES, EVALUATE, SCORE_CONFIRM, SCORE_UNMASK))
"""The same where clients know each other's identities."""
