"""What releases with Gaussian noise cost: (epsilon, delta) of many of them together.

Every release is one Gaussian mechanism on a vector of bounded length: its noise has the standard deviation `z` times
that bound in every coordinate. Two data sets are neighbours if one has one protected unit more, whose contribution is
all zero in the other. Nothing here draws noise, and nothing knows what a unit is.

Without sampling the composition is exact. With Poisson sampling it is an upper bound by Renyi divergences at whole
orders, which needs no numerical integration.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import cache, lru_cache

import numpy as np

ORDERS = (*range(2, 65), *range(68, 257, 4), *range(272, 1025, 16))
"""Orders of Renyi divergences; a finer list, also of broken orders, gains about 1 % where epsilon is below 10."""
MOST_RELEASES = 2**40
"""More is as good as without end."""
DECIMALS = 6
"""A noise multiplier that is found has so many, rounded up: another machine's last bits do not exceed the budget."""
MOST_NOISE = 1e12

_FAR = 25.0
"""From here on erfc loses digits to underflow, and its asymptotic series has all of them."""


@dataclass(frozen=True, order=True)
class Mechanism:
    """One release: noise per longest contribution, and how likely a unit is to take part in it."""

    noise_multiplier: float
    """Standard deviation of the noise divided by the length that a contribution is clipped to; 0: no noise."""
    sampling_probability: float = 1.0
    """Of each unit, independently, secretly and anew for each release (Poisson sampling); 1: everybody."""

    def __post_init__(self) -> None:
        """Check the numbers.

        Raises:
            ValueError: the noise is negative or not finite, or the probability is outside of 0 to 1.
        """
        if not 0.0 <= self.noise_multiplier < math.inf:
            raise ValueError(f"noise_multiplier: {self.noise_multiplier} is not a finite number of at least 0")
        if not 0.0 <= self.sampling_probability <= 1.0:
            raise ValueError(f"sampling_probability: {self.sampling_probability} is not between 0 and 1")


@dataclass(frozen=True)
class Spending:
    """What was released about one unit; it adds up in any order, and equal releases are counted, not listed."""

    counts: tuple[tuple[Mechanism, int], ...] = ()
    """Mechanisms in their order, each once, with their releases."""

    def add(self, mechanism: Mechanism, count: int = 1) -> Spending:
        """This and so many releases more.

        Raises:
            ValueError: the count is negative.
        """
        if count < 0:
            raise ValueError(f"releases: {count} is negative")
        counts = dict(self.counts)
        counts[mechanism] = counts.get(mechanism, 0) + count
        return Spending(tuple(sorted((which, number) for which, number in counts.items() if number)))

    def epsilon(self, delta: float) -> float:
        """Epsilon of everything together; infinite where something was released without noise.

        Exact where no release is sampled. Else the smaller of two bounds: Renyi divergences, which add up, and the
        exact value as if everybody had taken part. The second is one too: the hockey-stick divergence is convex, so a
        sample tells at most as much as everybody, and such bounds compose (Zhu, Dong and Wang 2022).

        Raises:
            ValueError: `delta` is not between 0 and 1.
        """
        told = [(which, count) for which, count in self.counts if which.sampling_probability > 0.0]
        if any(which.noise_multiplier == 0.0 for which, _ in told):
            return math.inf
        everybody = epsilon_of(math.fsum(count * _mu_squared(which) for which, count in told), delta)
        if all(which.sampling_probability == 1.0 for which, _ in told):
            return everybody
        total = np.zeros(len(ORDERS))
        for which, count in told:
            total += count * np.array(renyi(which.sampling_probability, which.noise_multiplier))
        return min(everybody, epsilon_of_renyi(total.tolist(), delta))


def delta_of(epsilon: float, mu: float) -> float:
    """The smallest delta of an epsilon, exact for Gaussian noise (Balle and Wang 2018, theorem 8).

    Phi(mu/2 - epsilon/mu) - exp(epsilon) Phi(-mu/2 - epsilon/mu), where exp(epsilon) is drawn into the second term:
    with a, b = (epsilon/mu -+ mu/2) / sqrt(2) it is b^2 - a^2, so that nothing overflows.

    Args:
        epsilon: At least 0.
        mu: Length of the longest contribution divided by the standard deviation of the noise: 1/z of one release,
            sqrt(T)/z of T (Dong, Roth and Su 2022, corollary 3.3).

    Raises:
        ValueError: a number is negative or not a number.
    """
    if not epsilon >= 0.0 or not mu >= 0.0:
        raise ValueError(f"epsilon {epsilon} and mu {mu} must be at least 0")
    if mu == 0.0 or epsilon == math.inf:
        return 0.0
    if mu == math.inf:
        return 1.0
    a, b = (epsilon / mu - mu / 2) / math.sqrt(2.0), (epsilon / mu + mu / 2) / math.sqrt(2.0)
    scale = math.exp(-a * a)
    first = scale * _erfcx(a) if a > 0.0 else math.erfc(a)
    return max((first - scale * _erfcx(b)) / 2, 0.0)


def epsilon_of(mu_squared: float, delta: float) -> float:
    """The smallest epsilon of a delta, exact for any Gaussian releases, also of different noise.

    Args:
        mu_squared: Sum of 1/z^2 over all releases; 0 where nothing was released.
        delta: Between 0 and 1, both excluded.

    Returns:
        Epsilon, at most 1e-13 of itself above the exact value, and below it by no more than `delta_of` is rounded.

    Raises:
        ValueError: `delta` is not between 0 and 1, or `mu_squared` is negative.
    """
    _check_delta(delta)
    if not mu_squared >= 0.0:
        raise ValueError(f"mu_squared: {mu_squared} is not at least 0")
    mu = math.sqrt(mu_squared)
    if mu == math.inf:
        return math.inf
    if delta_of(0.0, mu) <= delta:
        return 0.0
    # The bound of concentrated privacy (Bun and Steinke 2016, proposition 1.3) is where the search begins.
    low, high = 0.0, mu_squared / 2 + mu * math.sqrt(-2.0 * math.log(delta))
    return _smallest(lambda epsilon: delta_of(epsilon, mu) <= delta, low, high)


def sampled_epsilon(q: float, noise_multiplier: float, releases: int, delta: float) -> float:
    """Epsilon of releases of which each takes every unit with probability `q`: see `Spending.epsilon`.

    Raises:
        ValueError: a number is outside of its range.
    """
    return Spending().add(Mechanism(noise_multiplier, q), releases).epsilon(delta)


def renyi(q: float, z: float) -> list[float]:
    """Renyi divergences of one release at `ORDERS`: a/(2 z^2) for everybody, less with sampling.

    Those of several releases add up, order by order. For whole orders a they are log(A)/(a - 1) with
    A = sum over k of C(a, k) (1 - q)^(a - k) q^k exp((k^2 - k)/(2 z^2)) (Mironov, Talwar and Zhang 2019, section 3.3).

    Raises:
        ValueError: a number is outside of its range.
    """
    mechanism = Mechanism(z, q)
    return list(_renyi(mechanism.sampling_probability, mechanism.noise_multiplier))


def epsilon_of_renyi(total: Sequence[float], delta: float) -> float:
    """Epsilon from summed Renyi divergences r: the least r + log(1 - 1/a) - (log delta + log a)/(a - 1) of `ORDERS`.

    Source: Canonne, Kamath and Steinke 2020, proposition 12. Where the total variation that follows from a divergence
    is at most delta (Bretagnolle and Huber), epsilon is 0.

    Raises:
        ValueError: there is not one divergence per order, or `delta` is not between 0 and 1.
    """
    _check_delta(delta)
    if len(total) != len(ORDERS):
        raise ValueError(f"{len(total)} divergences for {len(ORDERS)} orders")
    if -math.expm1(-min(total)) <= delta * delta:
        return 0.0
    found = math.inf
    for a, r in zip(ORDERS, total, strict=True):
        found = min(found, r + math.log1p(-1.0 / a) - (math.log(delta) + math.log(a)) / (a - 1))
    return max(found, 0.0)


def releases_within(epsilon: float, delta: float, mechanism: Mechanism, before: Spending = Spending()) -> int:
    """How many releases a budget pays for besides what was released `before`; `MOST_RELEASES` where there is no end.

    Raises:
        ValueError: the budget is not positive, or `delta` is not between 0 and 1.
    """
    _check_budget(epsilon)

    def fits(count: int) -> bool:
        return before.add(mechanism, count).epsilon(delta) <= epsilon

    if not fits(1):
        return 0
    low = 1
    while low < MOST_RELEASES and fits(2 * low):
        low *= 2
    high = 2 * low
    while low < MOST_RELEASES and high - low > 1:
        middle = (low + high) // 2
        low, high = (middle, high) if fits(middle) else (low, middle)
    return low


def noise_multiplier_for(epsilon: float, delta: float, releases: int, sampling_probability: float = 1.0) -> float:
    """The smallest noise multiplier with which so many releases stay within a budget, rounded up to `DECIMALS`.

    Raises:
        ValueError: the budget or the number of releases is not positive, `delta` is not between 0 and 1, or no noise
            up to `MOST_NOISE` is enough.
    """
    _check_budget(epsilon)
    if releases < 1:
        raise ValueError(f"releases: {releases} is not positive")

    def fits(z: float) -> bool:
        return Spending().add(Mechanism(z, sampling_probability), releases).epsilon(delta) <= epsilon

    step = 10.0**-DECIMALS
    high = step
    while not fits(high):
        high *= 2
        if high > MOST_NOISE:
            raise ValueError(f"epsilon: {epsilon} is too little for {releases} releases")
    low = 0.0 if high == step else high / 2
    found = _smallest(fits, low, high, within=step / 100)
    rounded = round(math.ceil(found / step) * step, DECIMALS)
    return rounded if fits(rounded) else round(rounded + step, DECIMALS)


def _mu_squared(mechanism: Mechanism) -> float:
    """What one release adds to `mu_squared` if everybody takes part."""
    square = mechanism.noise_multiplier**2
    return 1.0 / square if square else math.inf


@lru_cache(maxsize=64)
def _renyi(q: float, z: float) -> tuple[float, ...]:
    inverse = _mu_squared(Mechanism(z)) / 2
    if q == 0.0:
        return (0.0,) * len(ORDERS)
    if q == 1.0 or not math.isfinite(inverse * ORDERS[-1] ** 2):
        return tuple(a * inverse for a in ORDERS)
    # The binomial terms without the exponentials sum to 1. Taken off in each term, A - 1 has all its digits also
    # where it is tiny; k = 0 and k = 1 then vanish.
    k = np.arange(2, ORDERS[-1] + 1, dtype=np.float64)
    growth = (k * k - k) * inverse
    factorials = _log_factorials()
    with np.errstate(divide="ignore"):  # log 0 of noise without end
        terms = k * math.log(q) + growth + np.log(-np.expm1(-growth)) - factorials[2:]
    found = []
    for a in ORDERS:
        rest = np.arange(a - 2, -1, -1)
        logs = terms[: a - 1] + factorials[a] - factorials[rest] + rest * math.log1p(-q)
        found.append(float(np.logaddexp(0.0, np.logaddexp.reduce(logs))) / (a - 1))
    return tuple(found)


@cache
def _log_factorials() -> np.ndarray[tuple[int], np.dtype[np.float64]]:
    return np.array([math.lgamma(n + 1.0) for n in range(ORDERS[-1] + 1)])


def _erfcx(x: float) -> float:
    """exp(x^2) erfc(x) for x >= 0, without overflow (Abramowitz and Stegun, 7.1.23)."""
    if x < _FAR:
        return math.exp(x * x) * math.erfc(x)
    square = 1.0 / (2.0 * x * x)
    series = 1.0 - square * (1.0 - 3.0 * square * (1.0 - 5.0 * square * (1.0 - 7.0 * square)))
    return series / (x * math.sqrt(math.pi))


def _smallest(holds: Callable[[float], bool], low: float, high: float, within: float = 0.0) -> float:
    """The smallest number for which something holds that then holds for all greater ones, by bisection from above."""
    while high - low > max(within, 1e-13 * high):
        middle = (low + high) / 2
        low, high = (low, middle) if holds(middle) else (middle, high)
    return high


def _check_delta(delta: float) -> None:
    if not 0.0 < delta < 1.0:
        raise ValueError(f"delta: {delta} is not between 0 and 1")


def _check_budget(epsilon: float) -> None:
    if not 0.0 < epsilon < math.inf:
        raise ValueError(f"epsilon: {epsilon} is not a positive number")
