"""Averages of versions: what is published after the last round, and scored and exported from then on."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated

from common.methods.choice import Bounds, Row, table

AVERAGE = "average"
"""What the average of a scope's versions is called among the moments of the server's optimizer, where it is kept."""


class VersionAverage(Row):
    """Base of the rows: after each round the average goes a share of the way to the new version."""

    def share(self, version: int, num_rounds: int) -> float:
        """That share, in (0, 1]; 1 begins anew. Versions count from 1."""
        raise NotImplementedError


@dataclass(frozen=True)
class LastVersions(VersionAverage):
    """The mean of the versions of the last rounds (Izmailov et al. 2018, SWA; Polyak and Juditsky 1992)."""

    name = "last_k"
    rounds: Annotated[int, Bounds(least=1, most=2**31 - 1)] = 3
    """how many; 1 is no average"""

    def share(self, version: int, num_rounds: int) -> float:
        """See `VersionAverage`."""
        return 1.0 / max(version - max(num_rounds - self.rounds, 0), 1)


@dataclass(frozen=True)
class MovingAverage(VersionAverage):
    """An exponential moving average that begins with version 1 (Tarvainen and Valpola 2017)."""

    name = "ema"
    decay: Annotated[float, Bounds(least=0, below=1)] = 0.7
    """share of the old average that is kept in each round; 0 is no average"""

    def share(self, version: int, num_rounds: int) -> float:
        """See `VersionAverage`."""
        return 1.0 if version <= 1 else 1.0 - self.decay


AVERAGES: dict[str, type[VersionAverage]] = table(LastVersions, MovingAverage)
