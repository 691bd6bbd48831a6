"""What the noise of the coordinator hides, measured: the epsilon of an attack stays below the one that is promised.

Each run is one audit (Steinke, Nasr and Jagielski 2023): many canary clients, each of which takes part or not by a coin
of its own, go through the real arithmetic; an attacker with all published values says of some who was there. How often
it is right bounds epsilon from below. The attacker knows everything but the coins and the key.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from math import exp, inf

import numpy as np
import pytest
from numpy.typing import NDArray
from scipy.stats import binom

from common.parameters.encodings import ENCODINGS, EncodedDelta
from common.parameters.schema import ParameterSchema
from common.privacy.accounting import Mechanism
from server.aggregation.accumulator import Delta
from server.aggregation.aggregator import Aggregator
from server.aggregation.noise import NoiseSettings
from server.aggregation.strategy import AggregationStrategy
from server.core.effects import Combine
from server.core.privacy_facts import Ledger, Noising

CELLS = ("shared", "task/a", "task/b")
DELTA, CONFIDENCE, CLIP = 1e-5, 0.95, 1.0
GUESSED = 0.25
"""Of so many canaries of a kind the attacker says something: of the eighths that look most and least as if there."""


def p_value(canaries: int, guesses: int, right: int, epsilon: float, delta: float) -> float:
    """How likely so many right guesses are at most, if (epsilon, delta) holds.

    Source: Steinke, Nasr and Jagielski 2023, theorem 5.2, in the form of their appendix D.
    """
    chance = 1 / (1 + exp(-epsilon))
    below = np.cumsum(binom.pmf(np.arange(right - 1, -1, -1), guesses, chance))
    steepest = float(np.max(below / np.arange(1, right + 1), initial=0.0))
    return min(1.0, float(binom.sf(right - 1, guesses, chance)) + 2 * canaries * delta * steepest)


def lower_bound(canaries: int, guesses: int, right: int, confidence: float) -> float:
    """The largest epsilon that so many right guesses rule out; 0 where they rule out none."""
    low, high = 0.0, 64.0
    if p_value(canaries, guesses, right, 0.0, DELTA) > 1 - confidence:
        return 0.0
    for _ in range(40):
        middle = (low + high) / 2
        is_out = p_value(canaries, guesses, right, middle, DELTA) <= 1 - confidence
        low, high = (middle, high) if is_out else (low, middle)
    return low


@dataclass(frozen=True)
class LeaksHeadB(NoiseSettings):
    """A mistake to be found: the head of one task has no noise."""

    def deviation(self, noising: Noising, scope: str) -> float:
        """See `NoiseSettings.deviation`."""
        return 0.0 if scope == "task/b" else super().deviation(noising, scope)


@dataclass(frozen=True)
class LeaksLength(NoiseSettings):
    """A mistake to be found: noise as if every update were a third of what it may be."""

    def deviation(self, noising: Noising, scope: str) -> float:
        """See `NoiseSettings.deviation`."""
        return super().deviation(noising, scope) / 3


def delta_of(values: NDArray[np.float32]) -> Delta:
    schema, dense = ParameterSchema.of({"values": values.shape}), ENCODINGS["dense-float32"]
    return EncodedDelta(dense, schema, dense.encode(values, schema))


@dataclass(frozen=True)
class Crowd:
    """Canaries of four kinds, `each` of a kind: all their change in one cell, or in `shared` and their head alike.

    A canary has a place of its own in its cells and tries to move it by ten times the clip.
    """

    each: int

    def __iter__(self) -> Iterator[tuple[int, Mapping[str, int]]]:
        """Kind and place in each cell, of every canary."""
        for i in range(self.each):
            yield from ((kind, {cell: i}) for kind, cell in enumerate(CELLS))
            yield 3, {"shared": self.each + i, CELLS[1 + i % 2]: self.each + i}

    def update(self, places: Mapping[str, int]) -> list[tuple[str, Delta]]:
        found = []
        for cell, place in places.items():
            values = np.zeros(2 * self.each, np.float32)
            values[place] = 10.0 * CLIP
            found.append((cell, delta_of(values)))
        return found


def audited(crowd: Crowd, settings: NoiseSettings, z: float, releases: int, seed: int) -> float:
    """The lower bound of epsilon from one run: the largest over the four kinds, each at its share of the confidence."""
    canaries, rng = list(crowd), np.random.default_rng(seed)
    there = rng.random(len(canaries)) < 0.5
    updates = [crowd.update(places) for (_, places), is_in in zip(canaries, there, strict=True) if is_in]
    size, many = 2 * crowd.each, float(len(canaries))
    seen = {cell: np.zeros(size, np.float32) for cell in CELLS}
    noising = Noising(z, CLIP, dict.fromkeys(CELLS, many), many)
    aggregator = Aggregator(AggregationStrategy(noise=settings))
    for version in range(1, releases + 1):
        for number, deltas in enumerate(updates):
            aggregator.fold(f"order-{number}", deltas, {cell: 1 for cell, _ in deltas}, {}, CLIP)
        totals = {cell: sum(cell in dict(deltas) for deltas in updates) for cell in CELLS}
        seen |= aggregator.combine(seen, Combine(version, totals, noise=noising))
    scores = np.array([sum(float(seen[cell][place]) for cell, place in places.items()) for _, places in canaries])
    kinds = np.array([kind for kind, _ in canaries])
    return max(_bound(scores[kinds == kind], there[kinds == kind], len(canaries)) for kind in range(4))


def _bound(scores: NDArray[np.float64], there: NDArray[np.bool_], canaries: int) -> float:
    """Of one kind: guesses were fixed in number before anything was seen."""
    most = int(len(scores) * GUESSED / 2)
    order = np.argsort(scores)
    right = int((~there[order[:most]]).sum() + there[order[-most:]].sum())
    return lower_bound(canaries, 2 * most, right, 1 - (1 - CONFIDENCE) / 4)


def claimed(z: float, releases: int) -> float:
    """What the ledger says after so many releases."""
    return Ledger(Mechanism(z), DELTA, CLIP, releases=releases, spent={"canary": releases}).epsilon()


def keyed(run: int, kind: type[NoiseSettings] = NoiseSettings) -> NoiseSettings:
    return kind(bytes([run]) * 32)


def test_the_bound_of_an_audit_is_that_of_the_published_method() -> None:
    # Without delta: the epsilon at which 90 of 100 right guesses have a chance of 5 %.
    epsilon = lower_bound(0, 100, 90, 0.95)
    assert binom.sf(89, 100, 1 / (1 + exp(-epsilon))) == pytest.approx(0.05, abs=1e-6)
    assert lower_bound(100, 100, 50, 0.95) == 0.0
    # With delta an attacker may have been told some answers: the bound sinks.
    assert lower_bound(10**4, 100, 90, 0.95) < epsilon
    assert p_value(100, 50, 50, inf, DELTA) == 1.0


@pytest.mark.parametrize(("z", "releases"), [(1.0, 1), (1.4, 2)])
def test_no_audit_of_twenty_finds_more_than_is_claimed(z: float, releases: int) -> None:
    found = [audited(Crowd(150), keyed(run), z, releases, run) for run in range(20)]
    assert max(found) < claimed(z, releases)
    assert np.median(found) > 0.5  # the attacker does see something


@pytest.mark.parametrize("mistake", [LeaksHeadB, LeaksLength])
def test_an_audit_finds_noise_that_is_missing_or_too_short(mistake: type[NoiseSettings]) -> None:
    crowd, z = Crowd(500), 1.5
    assert audited(crowd, keyed(7, mistake), z, 1, 7) > claimed(z, 1)
    assert audited(crowd, keyed(7), z, 1, 7) < claimed(z, 1)


@pytest.mark.slow
def test_no_audit_of_twenty_with_six_thousand_canaries_finds_more_than_is_claimed() -> None:
    found = [audited(Crowd(1500), keyed(run), 1.0, 1, run) for run in range(20)]
    assert max(found) < claimed(1.0, 1)
    assert min(found) > 1.3
    assert min(audited(Crowd(1500), keyed(run, LeaksHeadB), 1.2, 1, run) for run in range(3)) > claimed(1.2, 1)
