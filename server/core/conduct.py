"""How clients behave: how long their updates are beside the others', and what of theirs was refused."""

from __future__ import annotations

import sys
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from functools import cached_property
from math import log
from statistics import median

from common.errors import Reason

LEAST_UPDATES = 5
"""With fewer there are no outliers: among so many, one that is wrong still leaves a median of others."""
LEAST_TIMES = 2.0
"""An outlier is at least so many times as long as the median, however much alike the others are."""
_SCORE, _NORMAL = 3.5, 0.6745
"""The largest modified z-score that is none of an outlier, and the factor that makes it one of a normal variable."""

OFFENCES = frozenset(
    {
        *(Reason.MALFORMED, Reason.NOT_FINITE, Reason.TOO_LARGE, Reason.SCHEMA_MISMATCH),
        *(Reason.DIFFERENT_UPDATE, Reason.UNKNOWN_ORDER),
    }
)
"""Refusals of answers that no client of this version earns by being slow, cut off or replaced by another process."""


@dataclass(frozen=True)
class Norms:
    """How long the updates of a published round were as they came: Euclidean norms by client. A record."""

    round: int = 0
    lengths: Mapping[str, float] = field(default_factory=dict)

    @classmethod
    def of(cls, number: int, lengths: Mapping[str, float]) -> Norms:
        """Lengths to six digits, the longest first; every float can be kept, infinity as the largest one."""
        known = {name: float(f"{min(length, sys.float_info.max):.6g}") for name, length in lengths.items()}
        return cls(number, dict(sorted(known.items(), key=lambda item: (-item[1], item[0]))))

    @cached_property
    def median(self) -> float | None:
        """Of those that changed anything; None where none did."""
        return median(found) if (found := [length for length in self.lengths.values() if length > 0]) else None

    @cached_property
    def outliers(self) -> tuple[str, ...]:
        """The clients whose updates are much longer than the others', the longest first.

        Those whose modified z-score 0.6745 (x - median) / MAD is more than 3.5 (Iglewicz and Hoaglin 1993), with x the
        log of a length and MAD the median absolute deviation, and that are twice as long as the median. Short updates
        do no harm and are none.
        """
        logs = {name: log(length) for name, length in self.lengths.items() if length > 0}
        if len(logs) < LEAST_UPDATES:
            return ()
        middle = median(logs.values())
        spread = median(abs(value - middle) for value in logs.values())
        least = max(_SCORE * spread / _NORMAL, log(LEAST_TIMES))
        return tuple(name for name, value in logs.items() if value - middle > least)


NOT_MEASURED = Norms()


@dataclass(frozen=True)
class Conduct:
    """What clients were refused for, and why some are in quarantine. A record; the last one counts."""

    offences: Mapping[str, int] = field(default_factory=dict)
    quarantined: Mapping[str, str] = field(default_factory=dict)

    def after(self, client: str, kind: Reason, why: str, most: int) -> Conduct:
        """One refusal later; `most` offences lead into quarantine, 0: none does."""
        if kind not in OFFENCES or client in self.quarantined:
            return self
        count = self.offences.get(client, 0) + 1
        found = replace(self, offences={**self.offences, client: count})
        if not 0 < most <= count:
            return found
        said = f"{count} answers refused (federation.offences), the last one: {why}"
        return replace(found, quarantined={**self.quarantined, client: said})

    def without(self, client: str) -> Conduct:
        """As if a client had done nothing."""
        offences = {name: count for name, count in self.offences.items() if name != client}
        return Conduct(offences, {name: why for name, why in self.quarantined.items() if name != client})


NO_OFFENCES = Conduct()
