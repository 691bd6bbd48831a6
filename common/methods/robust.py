"""Robust rules: they see every update of a round side by side, and count each one once."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Annotated, Any, ClassVar

import numpy as np
from numpy.typing import NDArray

from common.methods.choice import Bounds, Row

Float64 = NDArray[np.float64]
Array = NDArray[Any]
NamedUpdates = Mapping[str, Mapping[str, Array]]
"""Client -> parameter -> its change."""
FaultyShare = Annotated[float, Bounds(least=0, below=0.5)]


class RobustRule(Row):
    """Base of the rows: a rule over the updates of a scope, (clients, columns) float64, in the order of order ids."""

    chooses: ClassVar[bool] = False
    """Whether `choose` says which updates `reduce` gets to see."""
    named: ClassVar[bool] = False
    """Whether `combine` takes the place of both: it sees whole updates by client and parameter, with their weights."""

    def reduce(self, updates: Float64) -> Float64:
        """One step of a block of columns."""
        raise NotImplementedError

    def choose(self, gram: Float64) -> Sequence[int]:
        """The updates that count, from the inner products of all, (clients, clients)."""
        return range(len(gram))

    def combine(self, updates: NamedUpdates, weights: Mapping[str, int]) -> Mapping[str, Array]:
        """The step of every parameter of a scope, from the updates and weights of clients."""
        raise NotImplementedError

    def require_usable(self) -> None:
        """Check that this process can apply it.

        Raises:
            ConfigError: it needs what this process does not have.
        """


@dataclass(frozen=True)
class Median(RobustRule):
    """The middle of every coordinate, of an even number the mean of the two (Yin et al., ICML 2018, definition 1)."""

    name = "median"

    def reduce(self, updates: Float64) -> Float64:
        """See `RobustRule`."""
        return np.asarray(np.median(updates, axis=0), dtype=np.float64)


@dataclass(frozen=True)
class TrimmedMean(RobustRule):
    """The mean of every coordinate without its floor(share * clients) largest and smallest values (Yin et al. 2018)."""

    name = "trimmed_mean"
    faulty_share: FaultyShare = 0.2
    """largest share of faulty clients, rounded down"""

    def reduce(self, updates: Float64) -> Float64:
        """See `RobustRule`."""
        cut = faulty(self.faulty_share, len(updates), (len(updates) - 1) // 2)
        return np.asarray(np.sort(updates, axis=0)[cut : len(updates) - cut].mean(axis=0), dtype=np.float64)


@dataclass(frozen=True)
class MultiKrum(RobustRule):
    """Multi-Krum (Blanchard et al., NeurIPS 2017, section 4): the mean of the clients - f best updates.

    An update is as good as it is close to its clients - f - 2 nearest others, in squared distances; of equal ones the
    first by order id is taken. f = floor(share * clients), at most what the rule can bear, (clients - 3) / 2.
    """

    name = "multi_krum"
    chooses = True
    faulty_share: FaultyShare = 0.2
    """largest share of faulty clients, rounded down"""

    def reduce(self, updates: Float64) -> Float64:
        """See `RobustRule`."""
        return np.asarray(updates.mean(axis=0), dtype=np.float64)

    def choose(self, gram: Float64) -> Sequence[int]:
        """See `RobustRule`."""
        count = len(gram)
        bad = faulty(self.faulty_share, count, max(0, (count - 3) // 2))
        square = np.diag(gram)
        distances = np.maximum(square[:, np.newaxis] + square - 2.0 * gram, 0.0)
        np.fill_diagonal(distances, np.inf)
        near = np.sort(distances, axis=1)[:, : max(0, min(count - 1, count - bad - 2))]
        best = np.argsort(near.sum(axis=1), kind="stable")[: count - bad]
        return sorted(best.tolist())


def faulty(share: float, clients: int, most: int) -> int:
    """How many of the clients may be faulty: a share of them rounded down, 20 % of 5 are 1 whatever floats say."""
    return min(int(share * clients + 1e-9), most)
