"""Payloads of updates: round trips, the same bits from rows as from dense, and an answer to any bytes."""

from __future__ import annotations

import tracemalloc

import numpy as np
import pytest
import torch
from hypothesis import example, given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray

from common.bodies import DENSE_BFLOAT16, DENSE_FLOAT32, ROWS_BFLOAT16, ROWS_FLOAT32
from common.errors import Reason, Refused
from common.parameters.encodings import (
    BLOCK,
    ENCODINGS,
    EncodedDelta,
    Encoding,
    from_bfloat16,
    is_table,
    to_bfloat16,
)
from common.parameters.schema import ParameterEntry, ParameterSchema
from server.aggregation import streaming
from server.aggregation.streaming import StreamingMean
from tests.aggregation_cases import moved

Float32 = NDArray[np.float32]

GOLDEN = ParameterSchema.of({"bias": (3,), "words": (257, 8), "last": (2,)})
SMALL = ParameterSchema.of({"first": (5, 4), "words": (259, 8), "norm": (7,), "types": (300, 9), "end": (1,)})
PLAIN = ParameterSchema.of({"weight": (16, 16), "bias": (16,)})
WIDE = ParameterSchema.of({"words": (1003, 128), "dense": (3 * BLOCK + 5,), "positions": (256, 4096)})
SCHEMAS = [GOLDEN, SMALL, PLAIN, WIDE]
every_encoding = pytest.mark.parametrize("encoding", ENCODINGS.values(), ids=ENCODINGS)
every_schema = pytest.mark.parametrize("schema", SCHEMAS, ids=["golden", "small", "plain", "wide"])


def decoded(encoding: Encoding, payload: NDArray[np.uint8], schema: ParameterSchema) -> Float32:
    """The whole vector, checking what `blocks` promises on the way."""
    encoding.check(payload, schema)
    vector, free = np.zeros(schema.size, dtype=np.float32), 0
    for start, block in encoding.blocks(payload, schema):
        assert free <= start and 0 < len(block) <= BLOCK and block.dtype == np.float32
        free = start + len(block)
        vector[start:free] = block
    return vector


def delta_of(schema: ParameterSchema, seed: int, share: float, zeros: bool = True) -> Float32:
    """A delta with about this share of its rows touched, some of them by a single value, and zeros of both signs."""
    rng = np.random.default_rng(seed)
    delta = rng.normal(0, 1e-3, schema.size).astype(np.float32)
    for entry in schema.entries:
        if len(entry.shape) == 2:
            rows = delta[entry.offset : entry.offset + entry.count].reshape(entry.shape)
            rows[rng.random(len(rows)) >= share] = 0.0
            lonely = rng.random(len(rows)) < 0.1
            rows[lonely, : entry.shape[1] - 1] = 0.0
    if zeros:
        delta[(rng.random(schema.size) < 0.3) & (delta == 0)] = -0.0
    return delta


def test_the_table_of_encodings_is_what_the_configuration_may_say() -> None:
    assert list(ENCODINGS) == ["dense-float32", "rows-float32", "dense-bfloat16", "rows-bfloat16"]
    assert all(name == encoding.name for name, encoding in ENCODINGS.items())


@pytest.mark.parametrize(
    ("shape", "table"),
    [
        ((256, 8), True),
        ((255, 8), False),
        ((256, 7), False),
        ((256,), False),
        ((300, 4, 4), False),
        ((256, BLOCK // 8), True),
        ((256, BLOCK // 8 + 1), False),
        ((30522, 128), True),
    ],
)
def test_tables_are_matrices_with_many_rows_of_some_length(shape: tuple[int, ...], table: bool) -> None:
    assert is_table(ParameterEntry("p", shape, 0)) is table


@every_encoding
@every_schema
@pytest.mark.parametrize("share", [0.0, 0.01, 0.2, 1.0])
def test_round_trip(encoding: Encoding, schema: ParameterSchema, share: float) -> None:
    delta = delta_of(schema, 1, share)
    payload = encoding.encode(delta, schema)
    least, most = encoding.bounds(schema)
    assert least <= len(payload) <= most
    expected = delta if encoding.format_of(schema).width == 4 else from_bfloat16(to_bfloat16(delta))
    np.testing.assert_array_equal(decoded(encoding, payload, schema), expected)
    if not encoding.rows:
        assert least == most == encoding.format_of(schema).width * schema.size


@every_encoding
@every_schema
def test_bounds_are_reached(encoding: Encoding, schema: ParameterSchema) -> None:
    least, most = encoding.bounds(schema)
    assert len(encoding.encode(np.zeros(schema.size, dtype=np.float32), schema)) == least
    assert len(encoding.encode(np.ones(schema.size, dtype=np.float32), schema)) == most


def golden_delta() -> Float32:
    delta = np.zeros(GOLDEN.size, dtype=np.float32)
    delta[:3] = 1.0, -2.0, 0.0
    words = delta[3 : 3 + 257 * 8].reshape(257, 8)
    words[1] = 0.5
    words[9, 7] = -1.5
    words[256, 0] = 3.0
    words[2] = -0.0
    delta[-2:] = -0.0, 4.0
    return delta


def test_golden_bytes_of_touched_rows() -> None:
    # 257 rows: 33 bytes of bitmap. Row 1 is bit 1 of byte 0, row 9 bit 1 of byte 1, row 256 bit 0 of byte 32. Three
    # zero bytes up to a multiple of four. Then bias and last, then rows 1, 9 and 256.
    bitmap = bytes([0b10, 0b10, *[0] * 30, 0b1]) + bytes(3)
    one, minus_two, zero, minus_zero, four = map(
        bytes.fromhex, ["0000803f", "000000c0", "00000000", "00000080", "00008040"]
    )
    half, minus_one_and_half, three = map(bytes.fromhex, ["0000003f", "0000c0bf", "00004040"])
    rows = half * 8 + zero * 7 + minus_one_and_half + three + zero * 7
    payload = ENCODINGS[ROWS_FLOAT32].encode(golden_delta(), GOLDEN)
    assert payload.tobytes() == bitmap + one + minus_two + zero + minus_zero + four + rows
    # All these values are exact in bfloat16: the upper two bytes of each float32.
    floats = np.frombuffer(payload[36:].tobytes(), dtype="<u4")
    halves = ENCODINGS[ROWS_BFLOAT16].encode(golden_delta(), GOLDEN)
    assert halves.tobytes() == bitmap + (floats >> 16).astype("<u2").tobytes()


def test_golden_bytes_of_dense() -> None:
    delta = np.array([1.0, -2.0, 1e-3], dtype=np.float32)
    schema = ParameterSchema.of({"bias": (3,)})
    assert ENCODINGS[DENSE_FLOAT32].encode(delta, schema).tobytes().hex() == "0000803f000000c06f12833a"
    assert ENCODINGS[DENSE_BFLOAT16].encode(delta, schema).tobytes().hex() == "803f00c0833a"


@pytest.mark.parametrize(
    ("bits", "rounded"),
    [
        (0x3F800000, 0x3F80),  # 1.0 is exact
        (0x3F807FFF, 0x3F80),  # just below half: down
        (0x3F808000, 0x3F80),  # half, even below: down
        (0x3F808001, 0x3F81),  # just above half: up
        (0x3F818000, 0x3F82),  # half, odd below: up
        (0x3FFFFFFF, 0x4000),  # carries into the exponent
        (0xBF818000, 0xBF82),  # the sign plays no part
        (0x00000000, 0x0000),
        (0x80000000, 0x8000),
        (0x00000001, 0x0000),  # the smallest subnormal
        (0x00018000, 0x0002),
        (0x7F7F7FFF, 0x7F7F),  # the largest that stays finite
        (0x7F7F8000, 0x7F80),  # rounds to infinity
        (0x7F800000, 0x7F80),  # infinities stay
        (0xFF800000, 0xFF80),
        (0x7FC00000, 0x7FC0),  # NaN stay NaN, whatever their lower bits
        (0x7F800001, 0x7FC0),
        (0x7FFFFFFF, 0x7FFF),
        (0xFFFFFFFF, 0xFFFF),
    ],
)
def test_bfloat16_rounds_to_nearest_even(bits: int, rounded: int) -> None:
    value = np.array([bits], dtype=np.uint32).view(np.float32)
    assert int(to_bfloat16(value)[0]) == rounded
    back = from_bfloat16(np.array([rounded], dtype=np.uint16))
    assert int(back.view(np.uint32)[0]) == rounded << 16


@settings(deadline=None)
@given(st.integers(0, 2**32 - 1))
def test_bfloat16_is_as_torch_has_it(seed: int) -> None:
    values = np.random.default_rng(seed).integers(0, 2**32, 200, dtype=np.uint32).view(np.float32)
    values = values[~np.isnan(values)]
    theirs = torch.from_numpy(values.copy()).to(torch.bfloat16).view(torch.int16).numpy().view(np.uint16)
    np.testing.assert_array_equal(to_bfloat16(values), theirs)


def model_of(name: str, deltas: list[Float32], weights: list[int], schema: ParameterSchema, base: Float32) -> bytes:
    encoding, sums = ENCODINGS[name], StreamingMean()
    sums.add("o", [("s", EncodedDelta(encoding, schema, encoding.encode(np.ones_like(base), schema)))], {"s": 7})
    sums.clear()  # what an earlier round left must not show through where blocks are skipped
    for delta, weight in zip(deltas, weights, strict=True):
        sums.add("o", [("s", EncodedDelta(encoding, schema, encoding.encode(delta, schema)))], {"s": weight})
    return moved(sums, "s", base, sum(weights), 0.5).tobytes()


@every_schema
@pytest.mark.parametrize("shares", [[0.0], [0.2, 0.0], [0.0, 0.05, 1.0], [0.01, 0.3, 0.3]], ids=str)
def test_rows_give_the_same_bits_as_dense(schema: ParameterSchema, shares: list[float]) -> None:
    base = np.random.default_rng(0).normal(size=schema.size).astype(np.float32)
    base[::5], base[1::5] = -0.0, 0.0
    deltas = [delta_of(schema, seed, share) for seed, share in enumerate(shares)]
    weights = [3, 0, 1000][: len(deltas)] if len(deltas) > 1 else [3]
    for dense, rows in ((DENSE_FLOAT32, ROWS_FLOAT32), (DENSE_BFLOAT16, ROWS_BFLOAT16)):
        expected = model_of(dense, deltas, weights, schema, base)
        assert model_of(rows, deltas, weights, schema, base) == expected
        backwards = model_of(rows, deltas[::-1], weights[::-1], schema, base)
        assert backwards == expected


def test_sums_in_several_chunks_have_no_seam(monkeypatch: pytest.MonkeyPatch) -> None:
    base = np.zeros(WIDE.size, dtype=np.float32)
    deltas = [delta_of(WIDE, seed, 0.2) for seed in range(3)]
    whole = model_of(ROWS_FLOAT32, deltas, [1, 2, 3], WIDE, base)
    monkeypatch.setattr(streaming, "CHUNK", BLOCK + 1000)
    assert model_of(ROWS_FLOAT32, deltas, [1, 2, 3], WIDE, base) == whole
    assert model_of(DENSE_FLOAT32, deltas, [1, 2, 3], WIDE, base) == whole


def refusal(encoding: Encoding, payload: NDArray[np.uint8], schema: ParameterSchema) -> Reason:
    with pytest.raises(Refused) as caught:
        encoding.check(payload, schema)
    assert "\n" not in caught.value.message and len(caught.value.message) < 200
    return caught.value.reason


@every_encoding
@pytest.mark.parametrize("bad", [np.nan, np.inf, -np.inf])
@pytest.mark.parametrize("at", [0, 5 * 4 - 1, 20, 20 + 259 * 8 - 1, SMALL.size - 1])
def test_one_value_that_is_not_finite_is_found_wherever_it_hides(encoding: Encoding, at: int, bad: float) -> None:
    delta = np.zeros(SMALL.size, dtype=np.float32)
    delta[at] = bad
    assert refusal(encoding, encoding.encode(delta, SMALL), SMALL) is Reason.NOT_FINITE


@every_encoding
@pytest.mark.parametrize("at", [0, BLOCK - 1, BLOCK, BLOCK + 4])
def test_blocks_hide_nothing_that_is_not_finite(encoding: Encoding, at: int) -> None:
    schema = ParameterSchema.of({"long": (BLOCK + 5,)})
    largest = from_bfloat16(np.array([0x7F7F], dtype=np.uint16))[0]
    delta = np.full(schema.size, largest, dtype=np.float32)
    encoding.check(encoding.encode(delta, schema), schema)
    delta[at] = np.nan
    assert refusal(encoding, encoding.encode(delta, schema), schema) is Reason.NOT_FINITE


@every_encoding
def test_sizes_that_no_payload_has(encoding: Encoding) -> None:
    least, most = encoding.bounds(SMALL)
    assert refusal(encoding, np.zeros(most + 1, dtype=np.uint8), SMALL) is Reason.TOO_LARGE
    assert refusal(encoding, np.zeros(least - 1, dtype=np.uint8), SMALL) is Reason.MALFORMED
    assert refusal(encoding, np.zeros(0, dtype=np.uint8), SMALL) is Reason.MALFORMED


@pytest.mark.parametrize("name", [ROWS_FLOAT32, ROWS_BFLOAT16])
@pytest.mark.parametrize(
    ("at", "bits"),
    [(32, 0b1000), (32, 0x80), (33 + 37, 0b10000), (33 + 38, 1), (0, 0b1)],
    ids=["row 259", "row 263", "row 300 of the second table", "padding", "a row without values"],
)
def test_bitmaps_that_do_not_fit(name: str, at: int, bits: int) -> None:
    # Two bitmaps of 33 and 38 bytes, one byte of padding; rows 0 to 258 and 0 to 299 exist.
    encoding = ENCODINGS[name]
    delta = delta_of(SMALL, 3, 0.2)
    delta[20:28] = 0.0  # row 0 of the first table
    payload = encoding.encode(delta, SMALL)
    encoding.check(payload, SMALL)
    payload[at] |= bits
    assert refusal(encoding, payload, SMALL) is Reason.MALFORMED


@pytest.mark.parametrize("name", [ROWS_FLOAT32, ROWS_BFLOAT16])
@pytest.mark.parametrize("more", [-1, 1, 4, 9 * 4])
def test_sizes_that_do_not_fit_the_bitmaps(name: str, more: int) -> None:
    encoding = ENCODINGS[name]
    payload = encoding.encode(delta_of(SMALL, 3, 0.2), SMALL)
    changed = np.concatenate([payload, np.zeros(more, dtype=np.uint8)]) if more > 0 else payload[:more]
    assert refusal(encoding, changed, SMALL) is Reason.MALFORMED


@st.composite
def damaged(draw: st.DrawFn) -> tuple[Encoding, NDArray[np.uint8]]:
    """A payload, cut or grown, with some bytes overwritten; or noise."""
    encoding = ENCODINGS[draw(st.sampled_from(list(ENCODINGS)))]
    if draw(st.booleans()):
        _, most = encoding.bounds(SMALL)
        size, seed = draw(st.integers(0, most + 9)), draw(st.integers(0, 2**32 - 1))
        return encoding, np.random.default_rng(seed).integers(0, 256, size, dtype=np.uint8)
    payload = encoding.encode(delta_of(SMALL, draw(st.integers(0, 99)), draw(st.floats(0, 1))), SMALL).copy()
    for at, value in draw(st.lists(st.tuples(st.integers(0, 100), st.integers(0, 255)), max_size=4)):
        payload[at] = value
    keep = len(payload) + draw(st.sampled_from([0, 0, 0, -1, -4, -8, 1, 4, 32]))
    return encoding, np.resize(payload, keep)


@settings(max_examples=300, deadline=None)
@given(damaged())
@example((ENCODINGS[ROWS_FLOAT32], np.full(ENCODINGS[ROWS_FLOAT32].bounds(SMALL)[1], 0xFF, dtype=np.uint8)))
def test_any_bytes_give_a_finite_vector_or_a_refusal(case: tuple[Encoding, NDArray[np.uint8]]) -> None:
    encoding, payload = case
    before = payload.tobytes()
    try:
        vector = decoded(encoding, payload, SMALL)
    except Refused as refused:
        assert refused.reason in (Reason.MALFORMED, Reason.TOO_LARGE, Reason.NOT_FINITE)
    else:
        assert np.isfinite(vector).all()
        # What was taken is worth what it says: encoded again, it gives the same vector.
        np.testing.assert_array_equal(decoded(encoding, encoding.encode(vector, SMALL), SMALL), vector)
    assert payload.tobytes() == before


@every_encoding
def test_folding_takes_a_few_blocks_of_memory_whatever_the_size(encoding: Encoding) -> None:
    schema = ParameterSchema.of({"words": (30_522, 128), "dense": (500_000,)})
    delta = delta_of(schema, 0, 0.2)
    update = EncodedDelta(encoding, schema, encoding.encode(delta, schema))
    sums = StreamingMean()
    sums.add("o", [("s", update)], {"s": 1})  # the sum itself stays
    tracemalloc.start()
    try:
        update.check()
        sums.add("o", [("s", update)], {"s": 2})
        _, peak = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert peak < 5 * 4 * BLOCK < schema.nbytes / 10
