"""A secret in shares, of which any `threshold` give it back and fewer tell nothing (Shamir 1979).

The secret is the value at 0 of a random polynomial of degree threshold - 1 over the integers modulo p = 2^256 + 297, a
prime just above every secret of 32 bytes; the share of a place, 1 or more, is the value there.
"""

from __future__ import annotations

import secrets
from collections.abc import Callable, Iterable, Sequence
from functools import lru_cache
from typing import NamedTuple

PRIME = 2**256 + 297
SECRET_BYTES = 32
SHARE_BYTES = 33


class Share(NamedTuple):
    """The value of a secret's polynomial at one place."""

    place: int
    """1 or more."""
    value: int
    """0 to p - 1."""


def random_number() -> int:
    """A number from 0 to p - 1, from the operating system's randomness."""
    return secrets.randbelow(PRIME)


def split(secret: int, threshold: int, places: Iterable[int], draw: Callable[[], int] = random_number) -> list[Share]:
    """Shares of a secret, one for each place, in their order.

    Args:
        secret: 0 to p - 1.
        threshold: How many shares give it back, at least 1 and at most as many as there are places.
        places: Where to evaluate, 1 to p - 1, each once.
        draw: Where the other coefficients come from, 0 to p - 1: something predictable only in tests.

    Raises:
        ValueError: a number is outside, a place comes twice, or there are fewer places than the threshold.
    """
    wanted = list(places)
    _check_places(wanted)
    if not 1 <= threshold <= len(wanted):
        raise ValueError(f"threshold {threshold} of {len(wanted)} shares")
    coefficients = [secret, *(draw() for _ in range(threshold - 1))]
    if not all(0 <= number < PRIME for number in coefficients):
        raise ValueError("a secret or coefficient is not between 0 and p - 1")
    return [Share(place, _polynomial(coefficients, place)) for place in wanted]


def join(shares: Sequence[Share], threshold: int) -> int:
    """The secret, from the first `threshold` shares: any so many of one secret give the same.

    Raises:
        ValueError: there are fewer, a place comes twice, or a number is outside.
    """
    return value_at(shares, threshold, 0)


def value_at(shares: Sequence[Share], threshold: int, place: int) -> int:
    """The value at a place of the polynomial through the first `threshold` shares: the secret at 0, else a share.

    Raises:
        ValueError: as `join`.
    """
    _check_places([share.place for share in shares])
    if not all(0 <= share.value < PRIME for share in shares):
        raise ValueError("a share is not between 0 and p - 1")
    if not 1 <= threshold <= len(shares):
        raise ValueError(f"{len(shares)} shares, {threshold} are needed")
    used = shares[:threshold]
    weights = _weights(tuple(share.place for share in used), place)
    return sum(weight * share.value for weight, share in zip(weights, used, strict=True)) % PRIME


def share_bytes(value: int) -> bytes:
    """A share's value as 33 bytes, big-endian.

    Raises:
        ValueError: it is not between 0 and p - 1.
    """
    if not 0 <= value < PRIME:
        raise ValueError("a share is not between 0 and p - 1")
    return value.to_bytes(SHARE_BYTES, "big")


def share_value(data: bytes) -> int:
    """The value of 33 bytes.

    Raises:
        ValueError: there are more or fewer, or the value is not below p.
    """
    if len(data) != SHARE_BYTES:
        raise ValueError(f"a share has {SHARE_BYTES} bytes, not {len(data)}")
    value = int.from_bytes(data, "big")
    if value >= PRIME:
        raise ValueError("a share is not between 0 and p - 1")
    return value


def _polynomial(coefficients: Sequence[int], place: int) -> int:
    value = 0
    for coefficient in reversed(coefficients):
        value = (value * place + coefficient) % PRIME
    return value


@lru_cache(maxsize=1024)
def _weights(places: tuple[int, ...], at: int) -> tuple[int, ...]:
    """Lagrange's weights: most secrets of a round are joined at the same places."""
    found = []
    for place in places:
        above, below = 1, 1
        for other in places:
            if other != place:
                above = above * (at - other) % PRIME
                below = below * (place - other) % PRIME
        found.append(above * pow(below, -1, PRIME) % PRIME)
    return tuple(found)


def _check_places(places: Sequence[int]) -> None:
    if len(set(places)) != len(places):
        raise ValueError("a place comes twice")
    if not all(0 < place < PRIME for place in places):
        raise ValueError("a place is not between 1 and p - 1")
