"""Noise as a keyed function: how it is distributed, what it depends on and what it does not, and its grid."""

from __future__ import annotations

import hashlib
import hmac
import importlib
import math
import struct
import sys
from itertools import combinations, pairwise
from random import Random

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.stats import kstest

import common.privacy
from common.errors import ConfigError
from common.privacy.noise import BLOCK, CellNoise, derive, digest_of, grid_of, label_of, normals, rounded

KEY = bytes(range(32))
OTHER = bytes(range(1, 33))
DIGEST = hashlib.sha256(b"a sum").digest()
LABEL = label_of("run", 3, "shared")
STD = 0.7
MANY = 1_000_000
LENGTH = 2 * BLOCK + 1001
"""More than two blocks of the stream, and an odd end."""


def hkdf(key: bytes, info: bytes) -> bytes:
    """RFC 5869 with SHA-256, no salt, 32 bytes."""
    secret = hmac.digest(bytes(32), key, "sha256")
    return hmac.digest(secret, info + b"\x01", "sha256")


def flipped(data: bytes, bit: int) -> bytes:
    changed = bytearray(data)
    changed[bit // 8] ^= 1 << bit % 8
    return bytes(changed)


def added(noise: CellNoise, values: np.ndarray) -> np.ndarray:
    return noise.add(0, values) - values


@pytest.fixture(scope="module")
def drawn() -> np.ndarray:
    return normals(KEY, MANY)


def test_the_stream_is_aes_in_counter_mode() -> None:
    """The words of the stream were made with another library."""
    key = hkdf(KEY, b"fedmtl mask|run|7.1|shared")
    first, second = struct.unpack("<QQ", struct.pack("<4I", 0x5EBD1E1A, 0xBE5B5556, 0x2C36135A, 0xFBF2C09B))
    radius = math.sqrt(-2 * math.log(((first >> 11) + 1) / 2**53))
    angle = 2 * math.pi * (second >> 11) / 2**53
    assert normals(key, 2) == pytest.approx([radius * math.cos(angle), radius * math.sin(angle)], rel=1e-14)


def test_a_stream_has_a_key_of_its_own() -> None:
    assert LABEL == "run|3|shared|" and label_of("run", 3, "task/a", "b") == "run|3|task/a|b"
    assert derive(KEY, LABEL, DIGEST) == hkdf(KEY, b"fedmtl noise|run|3|shared||" + DIGEST)
    with pytest.raises(ValueError):
        label_of("run|3", 3, "shared")


def test_the_noise_is_normal(drawn: np.ndarray) -> None:
    assert abs(drawn.mean()) < 5e-3
    assert drawn.std() == pytest.approx(1.0, rel=0.003)
    assert (drawn**3).mean() == pytest.approx(0.0, abs=0.015)
    assert (drawn**4).mean() == pytest.approx(3.0, abs=0.03)
    assert kstest(drawn, "norm").pvalue > 0.01
    for deviations in (1.0, 2.0, 3.0, 4.0):
        expected = MANY * math.erfc(deviations / math.sqrt(2))
        assert abs(int((abs(drawn) > deviations).sum()) - expected) < 4 * math.sqrt(expected)
    assert 4.5 < abs(drawn).max() < 8.6


def test_neighbours_in_a_stream_do_not_depend_on_each_other(drawn: np.ndarray) -> None:
    for lag in (1, 2, 3, 16):
        for values in (drawn, drawn**2):
            assert abs(np.corrcoef(values[:-lag], values[lag:])[0, 1]) < 0.005


def test_every_part_of_the_input_gives_other_noise() -> None:
    inputs = [(KEY, LABEL, DIGEST, STD), (OTHER, LABEL, DIGEST, STD), (flipped(KEY, 255), LABEL, DIGEST, STD)]
    labels = [label_of("run", 4, "shared"), label_of("nur", 3, "shared"), label_of("run", 3, "task/a")]
    labels += [label_of("run", 3, "task/a", row) for row in ("a", "b")]
    inputs += [(KEY, label, DIGEST, STD) for label in labels]
    inputs += [(KEY, LABEL, flipped(DIGEST, bit), STD) for bit in (0, 100, 255)]
    inputs += [(KEY, LABEL, DIGEST, np.nextafter(STD, 1.0)), (KEY, LABEL, DIGEST, 2 * STD)]
    found = [added(CellNoise(*each), np.zeros(100_000)) / each[3] for each in inputs]
    for one, other in combinations(found, 2):
        assert abs(np.corrcoef(one, other)[0, 1]) < 0.02  # 6 deviations


def test_one_bit_of_the_sum_gives_other_noise() -> None:
    total = np.random.Generator(np.random.PCG64(1)).normal(size=100_000)
    changed = total.copy()
    changed[7] = np.nextafter(changed[7], 9.0)
    assert digest_of([total]) != digest_of([changed])
    one, other = (added(CellNoise(KEY, LABEL, digest_of([values]), STD), values) for values in (total, changed))
    assert abs(np.corrcoef(one, other)[0, 1]) < 0.02
    assert (one - other).std() == pytest.approx(STD * math.sqrt(2), rel=0.01)


@pytest.mark.parametrize("std", [1e-6, 0.7, 1.0, 37.3, 1e9])
def test_the_noise_of_a_cell_has_its_deviation(std: float) -> None:
    values = np.random.Generator(np.random.PCG64(2)).normal(size=200_000)
    noise = added(CellNoise(KEY, LABEL, digest_of([values]), std), values)
    assert noise.std() == pytest.approx(std, rel=0.01)
    assert abs(noise.mean()) < 0.01 * std
    assert abs(np.corrcoef(noise, values)[0, 1]) < 0.01


def test_the_same_sum_gets_the_same_bits() -> None:
    total = np.arange(1000.0)
    first, again = (CellNoise(KEY, LABEL, digest_of([total]), STD).add(0, total) for _ in range(2))
    assert first.tobytes() == again.tobytes()
    assert np.array_equal(total, np.arange(1000.0))


def test_a_digest_is_that_of_the_bytes_however_they_are_cut() -> None:
    total = np.random.Generator(np.random.PCG64(3)).normal(size=1000)
    expected = hashlib.sha256(total.astype("<f8").tobytes()).digest()
    assert digest_of([total]) == digest_of([total[:7], total[7:7], total[7:]]) == expected
    assert digest_of([np.repeat(total, 2)[::2]]) == expected
    assert digest_of([total[7:], total[:7]]) != expected


@settings(max_examples=30)
@given(st.integers(0, LENGTH), st.integers(0, LENGTH))
def test_the_first_normals_of_more_are_the_same(one: int, other: int) -> None:
    less, more = sorted((one, other))
    assert np.array_equal(normals(KEY, less), normals(KEY, more)[:less])


@settings(max_examples=30)
@given(st.lists(st.integers(1, LENGTH - 1), max_size=12, unique=True), st.integers(0, 99))
def test_blocks_in_any_order_give_the_same_bits(cuts: list[int], seed: int) -> None:
    total = np.linspace(-3.0, 3.0, LENGTH)
    noise = CellNoise(KEY, LABEL, DIGEST, STD)
    pieces = list(pairwise([0, *sorted(cuts), LENGTH]))
    Random(seed).shuffle(pieces)
    found = np.full(LENGTH, np.nan)
    for start, stop in pieces:
        found[start:stop] = noise.add(start, total[start:stop])
    assert found.tobytes() == noise.add(0, total).tobytes()


@given(st.floats(1e-200, 1e200))
def test_the_grid_is_a_power_of_two_far_below_the_noise(std: float) -> None:
    grid = grid_of(std)
    assert math.frexp(grid)[0] == 0.5
    assert grid * 2**16 <= std < grid * 2**17


@given(st.lists(st.floats(-1e6, 1e6), min_size=1), st.floats(1e-3, 1e3))
def test_what_is_released_lies_on_the_grid(values: list[float], std: float) -> None:
    total, grid = np.array(values), grid_of(std)
    nearest = rounded(total, grid)
    assert np.all(abs(nearest - total) <= grid / 2)
    for released in (nearest, CellNoise(KEY, LABEL, digest_of([total]), std).add(0, total)):
        assert np.array_equal(np.rint(released / grid), released / grid)


def test_halves_go_to_the_even_multiple() -> None:
    assert rounded(np.array([0.25, 0.75, -0.25, 1.0]), 0.5).tolist() == [0.0, 1.0, 0.0, 1.0]
    assert (grid_of(1.0), grid_of(1.99), grid_of(2.0), grid_of(0.5)) == (2**-16, 2**-16, 2**-15, 2**-17)


def test_without_noise_a_sum_stays_as_it_is() -> None:
    total = np.array([0.1, -1e300, 5e-324])
    released = CellNoise(KEY, LABEL, DIGEST, 0.0).add(0, total)
    assert released.tobytes() == total.tobytes() and released is not total


@pytest.mark.parametrize(
    "call",
    [
        lambda: normals(KEY[1:], 1),
        lambda: normals(KEY, -1),
        lambda: derive(KEY + b"x", LABEL, DIGEST),
        lambda: derive(KEY, LABEL, DIGEST[:16]),
        lambda: grid_of(0.0),
        lambda: grid_of(math.inf),
        lambda: CellNoise(KEY, LABEL, DIGEST, -1.0),
        lambda: CellNoise(KEY, LABEL, DIGEST, math.nan),
        lambda: CellNoise(KEY, LABEL, DIGEST, 1.0).add(-1, np.zeros(2)),
    ],
)
def test_impossible_inputs_are_refused(call: object) -> None:
    with pytest.raises(ValueError):
        call()  # type: ignore[operator]


def test_a_missing_library_is_one_line_and_only_where_noise_is_drawn(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in [name for name in sys.modules if name.partition(".")[0] == "cryptography"]:
        monkeypatch.setitem(sys.modules, name, None)
    monkeypatch.setitem(sys.modules, "cryptography", None)
    monkeypatch.setattr(common.privacy, "noise", sys.modules["common.privacy.noise"])  # what it is again afterwards
    monkeypatch.delitem(sys.modules, "common.privacy.noise")
    noise = importlib.import_module("common.privacy.noise")
    for draw in (lambda: noise.normals(KEY, 1), lambda: noise.derive(KEY, LABEL, DIGEST), noise.require_package):
        with pytest.raises(ConfigError, match=r"needs the package 'cryptography'; run pip install 'fedmtl\[secure\]'"):
            draw()
    assert noise.CellNoise(KEY, LABEL, DIGEST, 0.0).add(0, np.ones(1)) == 1.0
