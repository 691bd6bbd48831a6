"""Sums modulo 2^32: that they fit, how exact their means are, and that no order shows."""

from __future__ import annotations

import math
from fractions import Fraction
from random import Random
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays

from common.secure.ring import (
    BLOCK,
    COUNT_BITS,
    add,
    counts,
    fraction_bits,
    means,
    quantise,
    quantise_counts,
    shortening,
)

MEMBERS = st.integers(1, 5000)
WEIGHTS = st.integers(1, 100_000)
CHANGES = st.floats(2.0**-20, 4.0)


def test_a_sum_is_that_of_integers_modulo_two_to_the_32() -> None:
    total = np.array([5, -7, 2**31 - 1], dtype=np.int32).view(np.uint32).copy()
    for part in ([-6, 9, 10], [3, -1, -2]):
        add(total, np.array(part, dtype=np.int32).view(np.uint32))
    assert total.tolist() == [2, 1, 2147483655]
    assert means(total, 0, 1).tolist() == [2.0, 1.0, -2147483641.0]  # the last one overflowed


@pytest.mark.parametrize(
    ("members", "weight", "change", "bits"),
    [(100, 1000, 0.5, 15), (1000, 1000, 0.5, 12), (1000, 1, 0.5, 22), (100, 10_000, 1.0, 11)],
)
def test_as_many_bits_as_fit(members: int, weight: int, change: float, bits: int) -> None:
    assert fraction_bits(members, weight, change) == bits == math.floor(31 - math.log2(members * weight * change))


def test_a_sum_of_two_to_the_31_would_be_negative_so_a_bit_is_left_out() -> None:
    assert fraction_bits(1, 1, 1.0) == 30
    assert fraction_bits(4, 8, 0.5) == 26


def worst_bits(members: int, weight: int, change: float) -> int | None:
    try:
        return fraction_bits(members, weight, change)
    except ValueError:
        return None


@given(MEMBERS, WEIGHTS, CHANGES)
def test_the_largest_sum_fits_and_no_bit_is_given_away(members: int, weight: int, change: float) -> None:
    bits = worst_bits(members, weight, change)
    if bits is None:
        assert members * weight * change * 2 > 2**31
        return
    value = int(quantise(np.array([change]), weight, bits, change).view(np.int32)[0])
    assert members * value <= 2**31 - 1
    assert members * math.ceil(weight * Fraction(change) * 2 ** (bits + 1)) > 2**31 - 1 - members


@pytest.mark.parametrize(
    "bad", [(0, 1, 1.0), (1, 0, 1.0), (1, 2**31, 1.0), (1, 1, 0.0), (1, 1, math.inf), (1, 1, -1.0)]
)
def test_bounds_that_are_none_are_refused(bad: Any) -> None:
    with pytest.raises(ValueError, match=r"members of weight|largest change"):
        fraction_bits(*bad)


def test_where_not_even_whole_numbers_fit_there_is_an_error() -> None:
    assert fraction_bits(2**20, 2**10, 1.0) == 0
    for members, weight, change in [(2**21, 2**10, 1.0), (2**30, 2**30, 1.0), (1, 1, math.nan)]:
        with pytest.raises(ValueError, match=r"fit|largest change"):
            fraction_bits(members, weight, change)


@st.composite
def crowds(draw: st.DrawFn) -> tuple[list[np.ndarray[Any, Any]], list[int], float, int]:
    """Vectors of some members within a largest change, their weights, that change, and the largest weight."""
    change, largest = draw(CHANGES), draw(st.integers(1, 1000))
    size = draw(st.integers(1, 5))
    kind: Any = draw(st.sampled_from([np.float32, np.float64]))
    bound = float(np.nextafter(kind(change), kind(0)))
    values = st.floats(-bound, bound, width=32 if kind is np.float32 else 64)
    members = draw(st.integers(1, 8))
    vectors = [draw(arrays(kind, size, elements=values)) for _ in range(members)]
    weights = draw(st.lists(st.integers(1, largest), min_size=members, max_size=members))
    return vectors, weights, change, largest


@given(crowds(), st.randoms(use_true_random=False))
def test_a_mean_is_exact_to_half_a_step_per_member_and_no_order_shows(crowd: Any, generator: Random) -> None:
    vectors, weights, change, largest = crowd
    bits = fraction_bits(len(vectors), largest, change)
    parts = [quantise(vector, weight, bits, change) for vector, weight in zip(vectors, weights, strict=True)]
    totals = []
    for _ in range(3):
        total = np.zeros(len(vectors[0]), dtype=np.uint32)
        for part in parts:
            add(total, part)
        totals.append(total.tobytes())
        generator.shuffle(parts)
    assert len(set(totals)) == 1
    found = means(total, bits, sum(weights))
    for at, mean in enumerate(found.tolist()):
        exact = sum(weight * Fraction(float(v[at])) for v, weight in zip(vectors, weights, strict=True)) / sum(weights)
        bound = Fraction(1, 2 ** (bits + 1)) * len(vectors) / sum(weights)
        # float64 rounds weight * x and the mean; against half a step that is next to nothing
        assert abs(Fraction(mean) - exact) <= bound + Fraction(2, 2**52) * Fraction(change)


def test_the_worst_error_of_a_mean_is_what_the_documents_say() -> None:
    assert 2.0 ** -(fraction_bits(100, 1000, 0.5) + 1) / 250 == pytest.approx(6.1e-8, rel=0.01)
    assert 2.0 ** -(fraction_bits(1000, 1000, 0.5) + 1) / 250 == pytest.approx(4.9e-7, rel=0.01)


@given(
    arrays(np.float32, st.integers(0, 6), elements=st.floats(width=32, allow_nan=False, allow_infinity=False)), CHANGES
)
def test_a_shortened_update_fits_as_a_whole(vector: Any, change: float) -> None:
    parts = [vector, vector[:3] * np.float32(0.5)]
    factor = shortening(parts, change)
    largest = float(np.max(np.abs(vector), initial=0.0))
    assert factor == 1.0 if largest <= change else factor == pytest.approx(change / largest)
    bits = fraction_bits(1, 10, change)
    for part in parts:
        found = quantise(part, 10, bits, change, factor)
        assert np.max(np.abs(found.view(np.int32).astype(np.int64)), initial=0) <= 2**31 - 1


@pytest.mark.parametrize("size", [1, BLOCK - 1, BLOCK, BLOCK + 1, 3 * BLOCK + 17])
@pytest.mark.parametrize("kind", [np.float32, np.float64])
def test_blocks_do_not_show(size: int, kind: Any) -> None:
    vector = np.random.default_rng(0).uniform(-0.5, 0.5, size).astype(kind)
    found = quantise(vector, 37, 12, 0.5)
    assert found.dtype == np.uint32
    assert found.view(np.int32).tolist() == np.rint(vector.astype(np.float64) * 37 * 4096).astype(int).tolist()
    assert shortening([vector], 0.1) == pytest.approx(0.1 / float(np.max(np.abs(vector))))


@pytest.mark.parametrize("value", [0.5000001, -0.6, math.nan, math.inf, -math.inf])
def test_changes_beyond_the_largest_are_refused_wherever_they_are(value: float) -> None:
    vector = np.zeros(2 * BLOCK, dtype=np.float64)
    vector[-1] = value
    with pytest.raises(ValueError, match="beyond"):
        quantise(vector, 1, 10, 0.5)
    if not math.isfinite(value):
        with pytest.raises(ValueError, match="finite"):
            shortening([vector], 0.5)


def test_what_does_not_fit_together_is_refused() -> None:
    with pytest.raises(ValueError, match="weight"):
        quantise(np.zeros(1), 3, 30, 1.0)
    with pytest.raises(ValueError, match="weight"):
        quantise(np.zeros(1), -1, 3, 1.0)
    with pytest.raises(ValueError, match="cannot be added"):
        add(np.zeros(2, dtype=np.uint32), np.zeros(3, dtype=np.uint32))
    with pytest.raises(ValueError, match="cannot be added"):
        add(np.zeros(2, dtype=np.uint32), np.zeros(2, dtype=np.uint64))
    with pytest.raises(ValueError, match="not positive"):
        means(np.zeros(2, dtype=np.uint32), 3, 0)


@given(st.lists(st.lists(st.floats(-1e9, 1e9), min_size=3, max_size=3), min_size=1, max_size=5))
def test_counts_are_sums_in_64_bits(rows: list[list[float]]) -> None:
    total = np.zeros(3, dtype=np.uint64)
    for row in rows:
        add(total, quantise_counts(row, len(rows)))
    for found, column in zip(counts(total).tolist(), zip(*rows, strict=True), strict=True):
        assert found == pytest.approx(math.fsum(column), abs=len(rows) * 2.0**-COUNT_BITS)


def test_whole_counts_are_exact_and_too_large_ones_are_refused() -> None:
    total = np.zeros(2, dtype=np.uint64)
    for row in ([3, -5], [2**32, 7], [1, -2]):
        add(total, quantise_counts(row, 3))
    assert counts(total).tolist() == [2**32 + 4, 0]
    for value, members in ((2.0**43, 1), (2.0**42, 2), (math.inf, 1), (math.nan, 1)):
        with pytest.raises(ValueError, match="does not fit"):
            quantise_counts([value], members)
