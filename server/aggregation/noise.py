"""Noise on the sums of a round, before anything else is made of them: one Gaussian mechanism over all cells."""

from __future__ import annotations

import hashlib
import logging
from collections.abc import Mapping
from dataclasses import dataclass, field

from common.parameters.encodings import BLOCK
from common.parameters.scope import Scope, ScopeKind
from common.parameters.vector import Vector
from common.privacy.clipping import bit_noise, next_clip, value_multiplier
from common.privacy.noise import CellNoise, derive, digest_of, label_of, normals
from server.aggregation.streaming import StreamingMean
from server.core.effects import Combine
from server.core.privacy_facts import Noising

log = logging.getLogger("fedmtl.server")

_BITS = "bits"


@dataclass(frozen=True)
class NoiseSettings:
    """What noise is made with."""

    key: bytes = field(repr=False)
    """The secret of a run folder, 32 bytes: noise is a function of this and of the sum that it hides, so that a round
    which closes again after a crash has the same bits, and one with other updates has independent noise."""
    head_scale: float = 1.0
    """Lengths of scopes of single tasks count divided by this, so that their noise is so many times larger."""
    quantile: float | None = None
    """Of the lengths of updates, which the clip follows."""

    def deviation(self, noising: Noising, scope: str) -> float:
        """The standard deviation of the noise on every number of a scope's sums."""
        z = noising.multiplier
        if z == 0.0:
            return 0.0
        if self.quantile is not None:
            z = value_multiplier(z, bit_noise(noising.clients, z))
        return z * noising.clip * (self.head_scale if Scope.parse(scope).kind is ScopeKind.TASK else 1.0)


def add_noise(sums: StreamingMean, vectors: Mapping[str, Vector], asked: Combine, settings: NoiseSettings) -> None:
    """Add the noise of a release to its sums, in place; a cell that nobody contributed to is a sum of zeros."""
    assert asked.noise is not None
    for scope, total in asked.totals.items():
        for task in asked.rows.get(scope, ("",)) if total else ():
            chunks = sums.whole(scope, task, len(vectors[scope]))
            label = label_of("sum", asked.version, scope, task)
            noise, first = CellNoise(settings.key, label, digest_of(chunks), settings.deviation(asked.noise, scope)), 0
            for chunk in chunks:
                for start in range(0, len(chunk), BLOCK):
                    chunk[start : start + BLOCK] = noise.add(first + start, chunk[start : start + BLOCK])
                first += len(chunk)


def clip_after(asked: Combine, settings: NoiseSettings, within: int, updates: int) -> float | None:
    """The clip of the next round, which follows the noised share of updates within this one; None where it stays.

    Source: Andrew et al. 2021, algorithm 1. A client that was not heard of counts as half.
    """
    noising = asked.noise
    if noising is None or settings.quantile is None:
        return None
    digest = hashlib.sha256(f"{within} of {updates}".encode()).digest()
    drawn = normals(derive(settings.key, label_of(_BITS, asked.version, ""), digest), 1)[0]
    noised = within - updates / 2 + float(drawn) * bit_noise(noising.clients, noising.multiplier)
    return next_clip(noising.clip, noised / noising.clients + 0.5, settings.quantile)
