"""How contributions to sums under noise are clipped, by the coordinator or by clients whose sums are masked.

The length that they are clipped to may follow a quantile of their lengths (Andrew et al. 2021). In every round each
client adds one bit, whether its update was within the clip. The bits' sum gets noise of its own, and the two noises
together cost what one release costs.
"""

from __future__ import annotations

import math
from collections.abc import Iterable
from dataclasses import dataclass

from common.parameters.scope import Scope, ScopeKind

ROUNDED_DOWN = 1.0 - 2.0**-40
"""A factor is made so much smaller that what is rounded on the way to it makes no contribution too long."""
SHORTEST, LONGEST = 1e-12, 1e12
"""The clip stays between these, so that no run of equal bits leads it to 0 or infinity."""


@dataclass(frozen=True)
class Clip:
    """The longest contribution of one client, all its scopes together."""

    length: float
    head_scale: float = 1.0
    """Lengths in scopes of single tasks count divided by this."""

    @property
    def largest(self) -> float:
        """No value of a contribution is larger."""
        return self.length * max(1.0, self.head_scale)

    def scale(self, scope: str) -> float:
        """What lengths in a scope count divided by."""
        if self.head_scale == 1.0:  # in any scope
            return 1.0
        if self.head_scale == 1.0:
            return 1.0
        return self.head_scale if Scope.parse(scope).kind is ScopeKind.TASK else 1.0

    def norm(self, squares: Iterable[tuple[str, float]]) -> float:
        """The Euclidean norm of an update, from sums of squares in its scopes; a scope may come in several parts."""
        total = 0.0
        for scope, square in squares:
            total += square / self.scale(scope) ** 2
        return math.sqrt(total)

    def factor(self, norm: float) -> float:
        """What an update of this norm is multiplied by, rounded down."""
        return min(1.0, self.length / norm if norm else 1.0) * ROUNDED_DOWN


def shared_out(factor: float, copies: int) -> float:
    """What each of so many copies of a change is multiplied by, so that together they are as long as one."""
    return factor / math.sqrt(copies)


def next_clip(clip: float, noised_share: float, quantile: float, rate: float = 0.2) -> float:
    """The clip of the next round: C exp(-rate (b - g)) (Andrew et al. 2021, algorithm 1).

    Args:
        clip: C, the length that this round's updates were clipped to.
        noised_share: b, the share of members whose update was within C, with its noise; it may leave 0 to 1.
        quantile: g, the share that should be within.
        rate: How fast it follows.

    Raises:
        ValueError: the clip is not positive, or a number is not finite.
    """
    if not 0.0 < clip < math.inf:
        raise ValueError(f"clip: {clip} is not a positive number")
    if not all(map(math.isfinite, (noised_share, quantile, rate))):
        raise ValueError(f"noised_share {noised_share}, quantile {quantile} and rate {rate} must be finite")
    # Logarithms: a share that is far off by its noise cannot overflow.
    exponent = math.log(clip) - rate * (noised_share - quantile)
    return math.exp(min(max(exponent, math.log(SHORTEST)), math.log(LONGEST)))


def bit_noise(members: float, z: float) -> float:
    """Standard deviation s of the noise on the sum of bits: max(m/20, 2 z).

    The first is the paper's choice. The second keeps the bits' part of the budget at 1/16 at most where
    there are few members: see `value_multiplier`.

    Args:
        members: m, what the sum of bits is divided by.
        z: The noise multiplier of the whole round.

    Raises:
        ValueError: a number is negative or not finite.
    """
    if not (0.0 <= members < math.inf and 0.0 <= z < math.inf):
        raise ValueError(f"members {members} and noise multiplier {z} must be finite and at least 0")
    return max(members / 20, 2 * z)


def value_multiplier(z: float, s: float) -> float:
    """Noise multiplier of the values so that values and bits together cost what one release with `z` costs.

    (z^-2 - (2 s)^-2)^(-1/2) (Andrew et al. 2021, theorem 1): a bit of -1/2 or 1/2 is a contribution of length 1/2.

    Args:
        z: The noise multiplier of the whole round.
        s: Standard deviation of the noise on the sum of bits.

    Raises:
        ValueError: the bits alone would cost as much or more, or a number is negative or not finite.
    """
    if not (0.0 <= z < math.inf and 0.0 <= s < math.inf):
        raise ValueError(f"noise multiplier {z} and bit noise {s} must be finite and at least 0")
    if z == 0.0:
        return 0.0
    if z >= 2 * s:
        raise ValueError(f"noise multiplier {z}: the noise of the bits must be above {z / 2}, and is {s}")
    part = z / (2 * s)
    return z / math.sqrt((1.0 - part) * (1.0 + part))
