"""Secrets in shares: known ones, any threshold of them, and nothing from fewer."""

from __future__ import annotations

from itertools import combinations, repeat
from random import Random

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from common.secure.shamir import PRIME, SHARE_BYTES, Share, join, share_bytes, share_value, split, value_at

NUMBERS = st.integers(0, PRIME - 1)


def test_the_modulus_is_a_prime() -> None:
    """Miller and Rabin's test, with 40 bases."""
    odd, twos = PRIME - 1, 0
    while odd % 2 == 0:
        odd, twos = odd // 2, twos + 1
    generator = Random(0)
    for base in (generator.randrange(2, PRIME - 1) for _ in range(40)):
        power = pow(base, odd, PRIME)
        powers = [power := power if at == 0 else power * power % PRIME for at in range(twos)]
        assert powers[0] == 1 or PRIME - 1 in powers


def test_the_classic_example() -> None:
    coefficients = iter([166, 94])
    shares = split(1234, 3, range(1, 7), lambda: next(coefficients))
    assert shares == [(1, 1494), (2, 1942), (3, 2578), (4, 3402), (5, 4414), (6, 5614)]
    for some in combinations(shares, 3):
        assert join(some, 3) == 1234


def test_shares_in_bytes() -> None:
    secret, slope = int.from_bytes(bytes(range(32)), "big"), int.from_bytes(bytes(range(32, 64)), "big")
    shares = split(secret, 2, [1, 2, 3], lambda: slope)
    assert [share_bytes(share.value).hex() for share in shares] == [
        "0020222426282a2c2e30323436383a3c3e40424446484a4c4e50525456585a5c5e",
        "00404346494c4f5255585b5e6164676a6d707376797c7f8285888b8e9194979a9d",
        "006064686c7074787c8084888c9094989ca0a4a8acb0b4b8bcc0c4c8ccd0d4d8dc",
    ]
    for share in shares:
        assert share_value(share_bytes(share.value)) == share.value
    assert len(share_bytes(PRIME - 1)) == SHARE_BYTES


@given(NUMBERS, st.integers(1, 8), st.sets(st.integers(1, 2000), min_size=8, max_size=12), st.randoms())
@settings(max_examples=50)
def test_any_threshold_of_shares_gives_the_secret(secret: int, threshold: int, places: set[int], mix: Random) -> None:
    shares = split(secret, threshold, places)
    mix.shuffle(shares)
    assert join(shares, threshold) == secret
    assert value_at(shares, threshold, shares[-1].place) == shares[-1].value


def coefficients_of(shares: list[Share]) -> list[int]:
    """Of the polynomial through some points, by Newton's divided differences; the lowest first."""
    table = [share.value for share in shares]
    for order in range(1, len(shares)):
        for at in range(len(shares) - 1, order - 1, -1):
            distance = shares[at].place - shares[at - order].place
            table[at] = (table[at] - table[at - 1]) * pow(distance, -1, PRIME) % PRIME
    found = [0]
    for at in range(len(shares) - 1, -1, -1):
        shifted = [0, *found]
        found = [(a - shares[at].place * b) % PRIME for a, b in zip(shifted, [*found, 0], strict=True)]
        found[0] = (found[0] + table[at]) % PRIME
    return found


@given(NUMBERS, NUMBERS, st.integers(2, 6), st.randoms(use_true_random=False))
@settings(max_examples=50)
def test_fewer_shares_fit_every_secret_equally(secret: int, other: int, threshold: int, generator: Random) -> None:
    """For any other secret there is exactly one polynomial that gives the same shares, and it is as likely."""
    places = generator.sample(range(1, 100), threshold - 1)
    extra = next(place for place in range(1, 100) if place not in places)
    shares = split(secret, threshold, [*places, extra])[:-1]
    # Through (0, other) and threshold - 1 shares goes one polynomial of that degree.
    first, *rest = coefficients_of([Share(0, other), *shares])[:threshold]
    assert first == other
    drawn = iter(rest)
    again = split(other, threshold, [*places, extra], lambda: next(drawn))
    assert again[:-1] == shares


def test_coefficients_are_drawn_anew() -> None:
    assert split(5, 2, [1, 2]) != split(5, 2, [1, 2])


def test_what_is_no_share_is_refused() -> None:
    for places in ([1, 1], [0, 1], [-1, 2], [1, PRIME]):
        with pytest.raises(ValueError, match="place"):
            split(1, 1, places)
        with pytest.raises(ValueError, match="place"):
            join([Share(place, 1) for place in places], 1)
    for threshold in (0, 3):
        with pytest.raises(ValueError, match="threshold"):
            split(1, threshold, [1, 2])
        with pytest.raises(ValueError, match="needed"):
            join([Share(1, 1), Share(2, 1)], threshold)
    for secret, coefficient in ((-1, 0), (PRIME, 0), (0, PRIME), (0, -1)):
        with pytest.raises(ValueError, match="between"):
            split(secret, 2, [1, 2], repeat(coefficient).__next__)
    for value in (-1, PRIME):
        with pytest.raises(ValueError, match="between"):
            join([Share(1, value), Share(2, 1)], 2)
        with pytest.raises(ValueError, match="between"):
            share_bytes(value)


@given(st.binary(max_size=40))
def test_any_bytes_are_a_share_or_an_error(data: bytes) -> None:
    try:
        assert share_bytes(share_value(data)) == data
    except ValueError as error:
        assert "share" in str(error)
    with pytest.raises(ValueError, match="between"):
        share_value(PRIME.to_bytes(SHARE_BYTES, "big"))
