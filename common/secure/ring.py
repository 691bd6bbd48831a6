"""Sums modulo 2^32: the numbers that masks can hide.

A value is rint(weight * x * 2^f) in two's complement, so that sums of integers take the place of sums of floats: the
order of arrival changes no bit, and a mask that is added and taken away again leaves nothing behind (Bonawitz et al.
2017, section 4). The integer weight is inside, so a sum of members is a weighted sum.

Cells of counts are 64 bits wide, with 20 bits behind the point.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence

import numpy as np
from numpy.typing import NDArray

from common.parameters.vector import Float64, Vector
from common.secure.terms import MOST_WEIGHT

Ring = NDArray[np.uint32]
"""Values modulo 2^32, or their sum."""
Counts = NDArray[np.uint64]
"""Counts modulo 2^64, or their sum."""
Cell = Ring | Counts
"""One sum of the coordinator."""

BLOCK = 16_384
"""Values that are converted at once: their float64 copies stay in the cache of a core."""
COUNT_BITS = 20
"""Bits behind the point of a count."""
LEAST_CHANGE = 2.0**-100

_LARGEST = 2**31 - 1
_LARGEST_COUNT = 2**63 - 1


def fraction_bits(members: int, largest_weight: int, largest_change: float) -> int:
    """The most bits behind the point with which the sum of all members still fits.

    It is floor(31 - log2(members * largest_weight * largest_change)), and one less where values that are rounded up
    could reach 2^31, as they do if the product is a power of two.

    Args:
        members: How many may be in the sum, at least 1.
        largest_weight: The largest weight of a member, 1 to 2^31 - 1.
        largest_change: The largest absolute value of one parameter's change, at least 2^-100.

    Raises:
        ValueError: a number is outside, or not even whole numbers would fit.
    """
    if members < 1 or not 1 <= largest_weight <= MOST_WEIGHT:
        raise ValueError(f"{members} members of weight {largest_weight}: both must be at least 1, a weight below 2^31")
    if not LEAST_CHANGE <= largest_change < math.inf:
        raise ValueError(f"largest change: {largest_change} is not between 2^-100 and infinity")
    logarithm = math.log2(members) + math.log2(largest_weight) + math.log2(largest_change)
    # The logarithm may be one last bit off, so the first guess is one too high.
    bits = math.floor(31 - logarithm) + 1
    while bits >= 0 and members * _most(largest_weight, bits, largest_change) > _LARGEST:
        bits -= 1
    if bits < 0:
        raise ValueError(
            f"{members} members of weight {largest_weight} with changes up to {largest_change} do not fit into 32 bits"
        )
    return bits


def shortening(vectors: Iterable[Vector], largest_change: float) -> float:
    """The factor, at most 1, that makes a whole update fit: no element times it is beyond `largest_change`.

    Args:
        vectors: All cells of one member, float32 or float64, (n,) each.
        largest_change: See `fraction_bits`.

    Raises:
        ValueError: a value is not finite.
    """
    largest = 0.0
    for vector in vectors:
        for at in range(0, len(vector), BLOCK):
            found = float(np.max(np.abs(vector[at : at + BLOCK])))
            if not math.isfinite(found):
                raise ValueError("a change is not finite")
            largest = max(largest, found)
    if largest <= largest_change:
        return 1.0
    factor = largest_change / largest
    while largest * factor > largest_change:
        factor = math.nextafter(factor, 0.0)
    return factor


def quantise(
    values: Vector, weight: int, bits: int, largest_change: float, factor: float = 1.0, towards_zero: bool = False
) -> Ring:
    """A member's vector in the ring: rint(weight * factor * x * 2^bits), a new array, (n,).

    Args:
        values: Changes, float32 or float64, (n,).
        weight: The member's weight in the sum, at least 0.
        bits: From `fraction_bits`.
        largest_change: See `fraction_bits`.
        factor: From `shortening`.
        towards_zero: Round so that no vector gets longer, however many values it has.

    Raises:
        ValueError: a value times the factor is not finite or beyond `largest_change`, or the weight does not fit.
    """
    if weight < 0 or weight > MOST_WEIGHT or _most(weight, bits, largest_change) > _LARGEST:
        raise ValueError(f"weight {weight} with {bits} bits and changes up to {largest_change} does not fit")
    scale = math.ldexp(weight, bits)
    found, rounded = np.empty(len(values), dtype=np.uint32), np.trunc if towards_zero else np.rint
    signed = found.view(np.int32)
    for at in range(0, len(values), BLOCK):
        part = values[at : at + BLOCK].astype(np.float64)
        part *= factor
        largest = float(np.max(np.abs(part)))
        if not largest <= largest_change:  # not a number compares false
            raise ValueError(f"a change of {largest} is beyond the largest one, {largest_change}")
        part *= scale
        signed[at : at + len(part)] = rounded(part, out=part)
    return found


def add(total: Cell, part: Cell) -> None:
    """Add one member's cell to a sum in place, modulo 2^32 or 2^64.

    Raises:
        ValueError: the two differ in type or length.
    """
    if total.dtype != part.dtype or total.shape != part.shape:
        raise ValueError(f"{part.dtype} {part.shape} cannot be added to {total.dtype} {total.shape}")
    np.add(total, part, out=total)


def means(total: Ring, bits: int, total_weight: int) -> Float64:
    """What a sum says: int32 * 2^-bits / total weight, float64, (n,).

    The error of a mean is at most 2^-(bits + 1) for each member, divided by the total weight.

    Raises:
        ValueError: the total weight is not positive.
    """
    if total_weight <= 0:
        raise ValueError(f"total weight {total_weight} is not positive")
    found = total.view(np.int32).astype(np.float64)
    found *= math.ldexp(1.0, -bits)
    found /= total_weight
    return found


def quantise_counts(values: Sequence[float] | Float64, members: int) -> Counts:
    """Counts, summed losses and moments as integers of 2^-20, uint64, (n,).

    Args:
        values: Finite numbers, (n,).
        members: How many may be in the sum; that many times the value must fit.

    Raises:
        ValueError: a value is not finite, or too large.
    """
    scaled = np.ldexp(np.asarray(values, dtype=np.float64), COUNT_BITS)
    found = np.empty(len(scaled), dtype=np.uint64)
    for at, value in enumerate(scaled.tolist()):
        if not math.isfinite(value) or abs(round(value)) * members > _LARGEST_COUNT:
            raise ValueError(f"a count of {math.ldexp(value, -COUNT_BITS)} from {members} members does not fit")
        found[at] = round(value) % 2**64
    return found


def counts(total: Counts) -> Float64:
    """What a sum of counts says, float64, (n,): exact up to 2^33, beyond it to 53 bits."""
    return np.ldexp(total.view(np.int64).astype(np.float64), -COUNT_BITS)


def _most(weight: int, bits: int, largest_change: float) -> int:
    """The largest integer that `quantise` can make: by its own operations, each of which keeps the order of values."""
    return int(np.rint(largest_change * math.ldexp(weight, bits)))
