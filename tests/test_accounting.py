"""What releases with noise cost, against published numbers, other formulas and another accountant."""

from __future__ import annotations

import math
from random import Random

import mpmath
import pytest
from hypothesis import assume, given, settings
from hypothesis import strategies as st
from scipy.integrate import quad

from common.privacy.accounting import (
    MOST_RELEASES,
    ORDERS,
    Mechanism,
    Spending,
    delta_of,
    epsilon_of,
    epsilon_of_renyi,
    noise_multiplier_for,
    releases_within,
    renyi,
    sampled_epsilon,
)
from common.privacy.clipping import LONGEST, SHORTEST, bit_noise, next_clip, value_multiplier

ROUNDING = 1 + 1e-9
PROBABILITIES = st.floats(1e-4, 1.0)
NOISES = st.floats(0.3, 50.0)
RELEASES = st.integers(1, 2000)
DELTAS = st.floats(1e-10, 1e-2)


def spent(*releases: tuple[float, int]) -> Spending:
    """Releases to everybody: noise multiplier and how many."""
    found = Spending()
    for z, count in releases:
        found = found.add(Mechanism(z), count)
    return found


@pytest.mark.parametrize(
    ("z", "releases", "delta", "expected"),
    [  # dp-accounting 0.6.0, PLD and `get_epsilon_gaussian`
        (1.0, 1, 1e-5, 4.377178),
        (1.0, 10, 1e-5, 17.856587),
        (10.0, 100, 1e-5, 4.377178),
        (20.0, 100, 1e-6, 2.254085),
    ],
)
def test_noise_for_everybody_costs_what_other_accountants_say(
    z: float, releases: int, delta: float, expected: float
) -> None:
    assert epsilon_of(releases / z**2, delta) == pytest.approx(expected, abs=1e-6)
    assert spent((z, releases)).epsilon(delta) == pytest.approx(expected, abs=1e-6)


@settings(max_examples=200)
@given(st.floats(0.0, 1e5), st.floats(1e-3, 1e3))
def test_delta_is_its_definition_in_many_digits(epsilon: float, mu: float) -> None:
    with mpmath.workdps(60):
        ratio, half = mpmath.mpf(epsilon) / mpmath.mpf(mu), mpmath.mpf(mu) / 2
        # Phi(-x) by erfc: mpmath's ncdf subtracts from 1.
        below = [mpmath.erfc(x / mpmath.sqrt(2)) / 2 for x in (ratio - half, ratio + half)]
        exact = float(below[0] - mpmath.exp(epsilon) * below[1])
    assert delta_of(epsilon, mu) == pytest.approx(exact, rel=1e-6, abs=1e-300)


def test_epsilon_neither_overflows_nor_falls_below_zero() -> None:
    assert epsilon_of(0.0, 1e-5) == 0.0
    assert epsilon_of(1e-20, 1e-5) == 0.0
    assert epsilon_of(1e8, 1e-5) == pytest.approx(5.004265e7, rel=1e-6)  # mu^2/2 + 4.2649 mu, the normal quantile
    assert epsilon_of(math.inf, 1e-5) == math.inf
    assert delta_of(1e300, 1.0) == delta_of(5.0, 0.0) == 0.0
    assert delta_of(1.0, math.inf) == 1.0
    assert spent((0.0, 1)).epsilon(1e-5) == math.inf
    assert spent((0.0, 0)).epsilon(1e-5) == 0.0


@given(st.floats(1e-6, 1e4), st.floats(1e-12, 0.5))
def test_epsilon_and_delta_are_each_others_inverse(mu_squared: float, delta: float) -> None:
    epsilon, mu = epsilon_of(mu_squared, delta), math.sqrt(mu_squared)
    assert delta_of(epsilon, mu) <= delta
    if epsilon:
        assert delta_of(epsilon * (1 - 1e-6), mu) > delta


@pytest.mark.parametrize(
    ("q", "z", "releases", "delta", "expected"),
    [  # dp-accounting 0.6.0, RdpAccountant with the same orders
        (0.01, 1.0, 1000, 1e-5, 2.1077530754515745),
        (0.01, 1.1, 1000, 1e-5, 1.7252908180449444),
        (0.05, 0.8, 200, 1e-6, 9.905257248336735),
        (0.1, 1.0, 100, 1e-5, 7.972921510380539),
        (0.5, 2.0, 50, 1e-5, 10.30285114792406),
        (256 / 60000, 1.1, 14062, 1e-5, 2.5969811785948815),
        (0.001, 5.0, 10000, 1e-7, 0.08965571495856522),
        (0.9, 3.0, 30, 1e-6, 9.410780969629284),
    ],
)
def test_sampled_releases_cost_what_another_accountant_says(
    q: float, z: float, releases: int, delta: float, expected: float
) -> None:
    assert sampled_epsilon(q, z, releases, delta) == pytest.approx(expected, abs=1e-9)
    total = [releases * each for each in renyi(q, z)]
    assert epsilon_of_renyi(total, delta) == pytest.approx(expected, abs=1e-9)


def test_different_releases_add_up() -> None:
    assert spent((1.0, 2), (2.0, 4)).epsilon(1e-5) == pytest.approx(8.385419, abs=1e-6)  # mu^2 = 2 + 1; PLD the same
    mixed = spent((8.0, 20)).add(Mechanism(2.0, 0.1), 50).add(Mechanism(1.0, 0.02), 300)
    assert mixed.epsilon(1e-5) == pytest.approx(4.009178456963605, abs=1e-9)  # RdpAccountant with the same orders
    assert mixed == Spending().add(Mechanism(1.0, 0.02), 300).add(Mechanism(2.0, 0.1), 50).add(Mechanism(8.0), 20)
    assert spent((8.0, 5), (8.0, 15)) == spent((8.0, 20))


def test_scopes_that_are_clipped_one_by_one_are_releases_of_their_own() -> None:
    for scopes, expected in ((1, 3.341409), (2, 4.983306), (3, 6.325715)):
        assert spent((4.0, 10 * scopes)).epsilon(1e-5) == pytest.approx(expected, abs=1e-6)


@pytest.mark.parametrize(
    ("epsilon", "releases", "expected"), [(1.0, 100, 37.30632), (8.0, 100, 6.00229), (8.0, 20, 2.68431)]
)
def test_noise_for_a_budget_is_found(epsilon: float, releases: int, expected: float) -> None:
    found = noise_multiplier_for(epsilon, 1e-5, releases)
    assert found == pytest.approx(expected, abs=1e-5)
    assert found == round(found, 6)


def test_a_budget_pays_for_so_many_releases() -> None:
    assert releases_within(8.0, 1e-5, Mechanism(4.0)) == 44
    assert spent((4.0, 44)).epsilon(1e-5) < 8.0 < spent((4.0, 45)).epsilon(1e-5)
    assert releases_within(4.0, 1e-5, Mechanism(1.0)) == releases_within(8.0, 1e-5, Mechanism(0.0)) == 0
    assert releases_within(1.0, 1e-5, Mechanism(1.0, 0.0)) == MOST_RELEASES


def test_one_release_under_two_draws_costs_twice() -> None:
    assert spent((4.0, 1)).epsilon(1e-5) == pytest.approx(0.926342, abs=1e-6)
    assert spent((4.0, 2)).epsilon(1e-5) == pytest.approx(1.356467, abs=1e-6)


def test_counts_of_rows_with_noise() -> None:
    """A row changes one count by 1: 20 scorings with noise of deviation 20."""
    assert spent((20.0, 20)).epsilon(1e-5) == pytest.approx(0.819728, abs=1e-6)


@pytest.mark.parametrize(("q", "z"), [(0.01, 1.0), (0.3, 0.7), (0.8, 3.0), (1.0, 2.0)])
@pytest.mark.parametrize("order", [2, 3, 8, 20])
def test_divergences_are_their_integral(q: float, z: float, order: int) -> None:
    """Of the mixture (1 - q) N(0, z^2) + q N(1, z^2) from N(0, z^2)."""

    def integrand(x: float) -> float:
        ratio = math.log1p(-q + q * math.exp((2 * x - 1) / (2 * z * z))) if q < 1 else (2 * x - 1) / (2 * z * z)
        return math.exp(order * ratio - x * x / (2 * z * z)) / (z * math.sqrt(2 * math.pi))

    value = quad(integrand, -12 * z, order + 12 * z, limit=500, epsabs=0.0, epsrel=1e-11)[0]
    assert renyi(q, z)[ORDERS.index(order)] == pytest.approx(math.log(value) / (order - 1), rel=1e-7)


def test_divergences_at_the_edges() -> None:
    assert renyi(0.0, 1.0) == [0.0] * len(ORDERS)
    assert renyi(1.0, 2.0) == [a / 8 for a in ORDERS]
    assert set(renyi(0.5, 0.0)) == {math.inf}
    tiny = renyi(1e-9, 1.0)[0]
    assert tiny == pytest.approx(1e-18 * math.expm1(1.0), rel=1e-9)  # order 2: log(1 + q^2 (e - 1))
    assert epsilon_of_renyi([0.0] * len(ORDERS), 1e-5) == 0.0
    with pytest.raises(ValueError):
        epsilon_of_renyi([0.0], 1e-5)


@settings(max_examples=60)
@given(PROBABILITIES, NOISES, RELEASES, DELTAS, st.floats(1.0, 3.0))
def test_epsilon_grows_with_all_that_tells_more(q: float, z: float, releases: int, delta: float, more: float) -> None:
    base = sampled_epsilon(q, z, releases, delta)
    assert base <= sampled_epsilon(min(q * more, 1.0), z, releases, delta) * ROUNDING
    assert base <= sampled_epsilon(q, z / more, releases, delta) * ROUNDING
    assert base <= sampled_epsilon(q, z, math.ceil(releases * more), delta) * ROUNDING
    assert base <= sampled_epsilon(q, z, releases, delta / more) * ROUNDING
    assert base <= epsilon_of(releases / z**2, delta) * ROUNDING


@settings(max_examples=40)
@given(st.floats(0.1, 20.0), DELTAS, NOISES, st.sampled_from([1.0, 0.5, 0.02]))
def test_the_last_release_that_is_paid_for_is_the_last(epsilon: float, delta: float, z: float, q: float) -> None:
    mechanism = Mechanism(z, q)
    found = releases_within(epsilon, delta, mechanism)
    assert Spending().add(mechanism, found).epsilon(delta) <= epsilon
    assert Spending().add(mechanism, found + 1).epsilon(delta) > epsilon


@settings(max_examples=25)
@given(st.floats(0.1, 20.0), DELTAS, RELEASES, st.sampled_from([1.0, 0.5, 0.02]))
def test_noise_that_is_found_keeps_the_budget_and_is_the_least(
    epsilon: float, delta: float, releases: int, q: float
) -> None:
    found = noise_multiplier_for(epsilon, delta, releases, q)
    assert sampled_epsilon(q, found, releases, delta) <= epsilon
    assert releases_within(epsilon, delta, Mechanism(found, q)) >= releases
    assume(found > 1e-4)
    assert sampled_epsilon(q, found - 2.1e-6, releases, delta) > epsilon


@pytest.mark.parametrize(
    "call",
    [
        lambda: Mechanism(-1.0),
        lambda: Mechanism(math.nan),
        lambda: Mechanism(math.inf),
        lambda: Mechanism(1.0, 1.1),
        lambda: Spending().add(Mechanism(1.0), -1),
        lambda: epsilon_of(1.0, 0.0),
        lambda: epsilon_of(1.0, 1.0),
        lambda: epsilon_of(-1.0, 0.1),
        lambda: epsilon_of(math.nan, 0.1),
        lambda: delta_of(-1.0, 1.0),
        lambda: delta_of(1.0, math.nan),
        lambda: releases_within(0.0, 1e-5, Mechanism(1.0)),
        lambda: noise_multiplier_for(math.inf, 1e-5, 1),
        lambda: noise_multiplier_for(1.0, 1e-5, 0),
    ],
)
def test_impossible_numbers_are_refused(call: object) -> None:
    with pytest.raises(ValueError):
        call()  # type: ignore[operator]


def test_another_accountant_agrees() -> None:
    accounting = pytest.importorskip("dp_accounting")
    rdp = pytest.importorskip("dp_accounting.rdp")
    random = Random(7)
    for _ in range(10):
        q, z, count = random.uniform(0.001, 0.8), random.uniform(0.6, 8.0), random.randint(1, 500)
        theirs = rdp.RdpAccountant(ORDERS)
        theirs.compose(accounting.PoissonSampledDpEvent(q, accounting.GaussianDpEvent(z)), count)
        total = [count * each for each in renyi(q, z)]
        assert epsilon_of_renyi(total, 1e-6) == pytest.approx(theirs.get_epsilon(1e-6), rel=1e-9)
        everybody = accounting.get_epsilon_gaussian(z / math.sqrt(count), 1e-6)
        assert spent((z, count)).epsilon(1e-6) == pytest.approx(everybody, rel=1e-6)


def test_the_clip_follows_the_noised_shares() -> None:
    clip = 1.0
    for share, expected in zip(
        (0.9, 0.9, 0.2, 0.5, 0.0), (0.923116346, 0.852143789, 0.904837418, 0.904837418, 1.0), strict=True
    ):
        clip = next_clip(clip, share, 0.5)
        assert clip == pytest.approx(expected, abs=1e-9)


def test_the_clip_stays_in_its_bounds() -> None:
    assert next_clip(1.0, -1e6, 0.5) == pytest.approx(LONGEST)
    assert next_clip(1.0, 1e6, 0.5) == pytest.approx(SHORTEST)
    for clip, share in ((0.0, 0.5), (-1.0, 0.5), (math.inf, 0.5), (math.nan, 0.5), (1.0, math.nan), (1.0, math.inf)):
        with pytest.raises(ValueError):
            next_clip(clip, share, 0.5)


@pytest.mark.parametrize(("members", "start"), [(10, 0.1), (10, 10.0), (100, 0.1), (100, 10.0)])
def test_the_median_length_is_found_and_kept(members: int, start: float) -> None:
    random = Random(members)
    clip, noise, found = start, bit_noise(members, 1.0), []
    for _ in range(200):
        within = sum(random.lognormvariate(0.0, 0.5) <= clip for _ in range(members))
        clip = next_clip(clip, (within - members / 2 + random.gauss(0.0, noise)) / members + 0.5, 0.5)
        found.append(clip)
    assert any(0.8 <= value <= 1.2 for value in found[:30])
    assert all(abs(value - 1) <= (0.1 if members == 100 else 0.25) for value in found[-50:])


def test_bits_and_values_share_the_budget() -> None:
    assert bit_noise(100, 1.0) == 5.0 and bit_noise(10, 1.0) == 2.0
    assert value_multiplier(1.0, 5.0) == pytest.approx(1.005038, abs=1e-6)
    assert value_multiplier(1.0, 1.0) == pytest.approx(1.154701, abs=1e-6)
    assert value_multiplier(1.0, 2.0) == pytest.approx(1.032796, abs=1e-6)
    assert value_multiplier(0.0, 0.0) == 0.0
    with pytest.raises(ValueError, match=r"must be above 0\.5, and is 0\.5"):
        value_multiplier(1.0, 0.5)  # 10 clients with the paper's choice
    for z, s in ((-1.0, 1.0), (math.nan, 1.0), (1.0, math.inf)):
        with pytest.raises(ValueError):
            value_multiplier(z, s)
    with pytest.raises(ValueError):
        bit_noise(-1, 1.0)


@given(st.integers(1, 10_000), st.floats(0.1, 100.0))
def test_the_adaptive_clip_costs_nothing_more(members: int, z: float) -> None:
    s = bit_noise(members, z)
    values = value_multiplier(z, s)
    assert values**-2 + (2 * s) ** -2 == pytest.approx(z**-2, rel=1e-9)
    assert (2 * s) ** -2 <= z**-2 / 16 * ROUNDING
