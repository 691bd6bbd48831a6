"""Robust rules: they need every update of a round side by side (`kept_updates`), and count each one once."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np

from common.config.schema import Config
from common.parameters.vector import Float64


@dataclass(frozen=True)
class RobustRule:
    """A rule over the updates of a scope, (clients, columns) float64, in the order of their order ids.

    `reduce` makes one step of a block of columns. `choose`, if there is one, says from the inner products of all
    updates, (clients, clients), which of them `reduce` gets to see.
    """

    reduce: Callable[[Float64], Float64]
    choose: Callable[[Float64], Sequence[int]] | None = None


def median() -> RobustRule:
    """The middle of every coordinate, of an even number the mean of the two (Yin et al., ICML 2018, definition 1)."""
    return RobustRule(lambda updates: np.asarray(np.median(updates, axis=0), dtype=np.float64))


def trimmed_mean(share: float) -> RobustRule:
    """The mean of every coordinate without its floor(share * clients) largest and smallest values (Yin et al. 2018)."""

    def reduce(updates: Float64) -> Float64:
        cut = faulty(share, len(updates), (len(updates) - 1) // 2)
        return np.asarray(np.sort(updates, axis=0)[cut : len(updates) - cut].mean(axis=0), dtype=np.float64)

    return RobustRule(reduce)


def multi_krum(share: float) -> RobustRule:
    """Multi-Krum (Blanchard et al., NeurIPS 2017, section 4): the mean of the clients - f best updates.

    An update is as good as it is close to its clients - f - 2 nearest others, in squared distances; of equal ones the
    first by order id is taken. f = floor(share * clients), at most what the rule can bear, (clients - 3) / 2.
    """

    def choose(gram: Float64) -> Sequence[int]:
        count = len(gram)
        bad = faulty(share, count, max(0, (count - 3) // 2))
        square = np.diag(gram)
        distances = np.maximum(square[:, np.newaxis] + square - 2.0 * gram, 0.0)
        np.fill_diagonal(distances, np.inf)
        near = np.sort(distances, axis=1)[:, : max(0, min(count - 1, count - bad - 2))]
        best = np.argsort(near.sum(axis=1), kind="stable")[: count - bad]
        return sorted(best.tolist())

    return RobustRule(lambda updates: np.asarray(updates.mean(axis=0), dtype=np.float64), choose)


def faulty(share: float, clients: int, most: int) -> int:
    """How many of the clients may be faulty: a share of them rounded down, 20 % of 5 are 1 whatever floats say."""
    return min(int(share * clients + 1e-9), most)


def robust_rule_of(config: Config) -> RobustRule | None:
    """The rule that `aggregation.robust` names, or None."""
    section = config.aggregation
    match section.robust:
        case "median":
            return median()
        case "trimmed_mean":
            return trimmed_mean(section.faulty_share)
        case "multi_krum":
            return multi_krum(section.faulty_share)
    return None
