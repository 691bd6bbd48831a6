"""How a delta becomes the bytes of an update, and back: a layout (dense or touched rows) times a format of elements.

DENSE: every element, in the vector's order.

ROWS: most rows of a word embedding have no gradient in a client's batches and stay as they are. A payload holds, in
this order,

1. for each table of the schema a bitmap of its touched rows, ceil(rows / 8) bytes, first row in the lowest bit of the
   first byte, surplus bits zero; behind the last bitmap zero bytes up to a multiple of an element's bytes;
2. the elements of everything that is no table, in the vector's order;
3. the elements of the touched rows, in the vector's order.

Which parameters are tables follows from the schema alone. A row is touched if any of its values is not zero.
What is left out are rows of +0.0 and -0.0, and a sum that starts at +0.0 does not change a bit when either is added to
it: rows and dense give the same model. NaN is not zero, so it travels, and is refused. Weight decay changes every row;
then rows save nothing, and cost their bitmap.

All numbers are little-endian. BFLOAT16 is the upper half of a float32, rounded to nearest, ties to even. Values that
are not finite stay so, and finite ones above 3.3953e38 become infinite; either is refused when it arrives. Scopes of
float64 travel as they are under every encoding: shorter elements are for models.
"""

from __future__ import annotations

from collections.abc import Callable, Generator, Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from common.bodies import DENSE_BFLOAT16, DENSE_FLOAT32, ROWS_BFLOAT16, ROWS_FLOAT32
from common.errors import Reason, Refused
from common.parameters.schema import ElementType, ParameterEntry, ParameterSchema
from common.parameters.vector import Vector

Bytes = NDArray[np.uint8]
Values = NDArray[Any]
Block = tuple[int, Vector]
"""Start in the vector, and elements from there on."""

BLOCK = 1 << 16
"""Most elements worked on at a time: what a fold needs of one block stays in the core's cache."""

TABLE_ROWS = 256
"""A matrix with fewer rows is no table; nor is one whose rows are very short or longer than BLOCK / 8."""
TABLE_COLUMNS = range(8, BLOCK // 8 + 1)


def is_table(entry: ParameterEntry) -> bool:
    """Whether a parameter's rows may travel one by one."""
    return len(entry.shape) == 2 and entry.shape[0] >= TABLE_ROWS and entry.shape[1] in TABLE_COLUMNS


@dataclass(frozen=True)
class Format:
    """How elements travel: as `dtype`, packed from a vector's and unpacked to them; `finite` whether all values are."""

    dtype: np.dtype[Any]
    pack: Callable[[Vector], Values]
    unpack: Callable[[Values], Vector]
    finite: Callable[[Values], bool]

    @property
    def width(self) -> int:
        """Bytes of an element."""
        return self.dtype.itemsize


def to_bfloat16(values: Vector) -> NDArray[np.uint16]:
    """The nearest bfloat16 of contiguous float32 values as their 16 bits, ties to even; NaN stays NaN."""
    bits = values.view(np.uint32)
    rounded = bits >> np.uint32(16)
    rounded &= np.uint32(1)
    rounded += np.uint32(0x7FFF)
    rounded += bits
    rounded >>= np.uint32(16)
    nan = np.isnan(values)
    if nan.any():  # rounding could carry into sign and exponent: cut instead, and keep a bit that says NaN
        rounded[nan] = bits[nan] >> np.uint32(16) | np.uint32(0x40)
    return rounded.astype(np.uint16)


def from_bfloat16(bits: NDArray[np.uint16]) -> Vector:
    """The float32 values that 16 bits each stand for; exact."""
    wide = bits.astype(np.uint32)
    wide <<= np.uint32(16)
    return wide.view(np.float32)


def is_finite(values: Values) -> bool:
    """Whether all of a block's values are finite. Their squares add up faster than they are looked at one by one."""
    with np.errstate(over="ignore", invalid="ignore"):
        square = np.dot(values, values)
    return bool(np.isfinite(square) or np.isfinite(values).all())


def _is_finite_bfloat16(bits: Values) -> bool:
    return bool((bits & np.uint16(0x7F80) != 0x7F80).all())


def _as_is(values: Values) -> Values:
    return values


PLAIN = {
    ElementType.FLOAT32: Format(np.dtype("<f4"), _as_is, _as_is, is_finite),
    ElementType.FLOAT64: Format(np.dtype("<f8"), _as_is, _as_is, is_finite),
}
BFLOAT16 = Format(np.dtype("<u2"), to_bfloat16, from_bfloat16, _is_finite_bfloat16)


@dataclass(frozen=True)
class Encoding:
    """One row of the table below. All methods work blockwise; nothing of the vector's size is allocated but a payload.

    Payloads are contiguous uint8, at an address that is a multiple of an element's bytes.
    """

    name: str
    rows: bool
    shorter: Format | None = None
    """What the elements of float32 scopes are rounded to, or None for as they are."""

    def format_of(self, schema: ParameterSchema) -> Format:
        """How a scope's elements travel."""
        if self.shorter is not None and schema.dtype is ElementType.FLOAT32:
            return self.shorter
        return PLAIN[schema.dtype]

    def bounds(self, schema: ParameterSchema) -> tuple[int, int]:
        """Least and most bytes of a payload."""
        width = self.format_of(schema).width
        most = self._bitmap_bytes(schema) + width * schema.size
        return most - width * sum(table.count for table in self._tables(schema)), most

    def encode(self, delta: Vector, schema: ParameterSchema) -> Bytes:
        """The payload of a contiguous delta of `schema.size` elements; may share the delta's memory."""
        tables, form = self._tables(schema), self.format_of(schema)
        if not tables and form is PLAIN[schema.dtype]:
            return delta.astype(form.dtype, copy=False).view(np.uint8)
        matrices = [delta[table.offset : table.offset + table.count].reshape(table.shape) for table in tables]
        touched = [_touched(matrix) for matrix in matrices]
        count = sum(int(rows.sum()) * matrix.shape[1] for matrix, rows in zip(matrices, touched, strict=True))
        payload = np.zeros(self.bounds(schema)[0] + form.width * count, dtype=np.uint8)
        at = 0
        for rows in touched:
            bitmap = np.packbits(rows, bitorder="little")
            payload[at : at + len(bitmap)] = bitmap
            at += len(bitmap)
        values, at = payload[self._bitmap_bytes(schema) :].view(form.dtype), 0
        for entry in schema.entries:
            if entry not in tables:
                at = _put(form, values, at, delta[entry.offset : entry.offset + entry.count])
        for matrix, rows in zip(matrices, touched, strict=True):
            step = _step(matrix.shape[1])
            for first in range(0, len(rows), step):
                at = _put(form, values, at, matrix[first : first + step][rows[first : first + step]].reshape(-1))
        return payload

    def check(self, payload: Bytes, schema: ParameterSchema) -> None:
        """Whether `blocks` may read a payload; any bytes are taken or refused.

        Raises:
            Refused: MALFORMED where bitmaps and size do not fit the schema or each other, TOO_LARGE for more bytes
                than any payload has, NOT_FINITE for a NaN or an infinite value.
        """
        least, most = self.bounds(schema)
        if not least <= len(payload) <= most:
            reason = Reason.TOO_LARGE if len(payload) > most else Reason.MALFORMED
            raise Refused(reason, f"holds {len(payload)} bytes, {self.name} has {least} to {most}")
        at, expected, form = 0, least, self.format_of(schema)
        for table in self._tables(schema):
            rows = table.shape[0]
            bitmap = payload[at : at + _bytes_of(rows)]
            if rows % 8 and bitmap[-1] >> rows % 8:
                raise Refused(Reason.MALFORMED, f"marks rows that '{table.name}' does not have")
            expected += int(_BITS[bitmap].sum(dtype=np.int64)) * table.shape[1] * form.width
            at += len(bitmap)
        start = self._bitmap_bytes(schema)
        if payload[at:start].any():
            raise Refused(Reason.MALFORMED, "has bits set behind its bitmaps")
        if len(payload) != expected:
            raise Refused(Reason.MALFORMED, f"holds {len(payload)} bytes, its bitmaps ask for {expected}")
        values = payload[start:].view(form.dtype)
        if not all(form.finite(values[i : i + BLOCK]) for i in range(0, len(values), BLOCK)):
            raise Refused(Reason.NOT_FINITE, "holds NaN or infinite values")

    def blocks(self, payload: Bytes, schema: ParameterSchema) -> Iterator[Block]:
        """The delta in blocks of at most BLOCK elements with ascending starts; what lies between them is zero.

        The payload must have passed `check`. A block is valid until the next one is asked for.
        """
        bitmaps, form = self._bitmap_bytes(schema), self.format_of(schema)
        values = payload[bitmaps:].view(form.dtype)
        if not bitmaps:
            yield from _whole(form, 0, values)
            return
        dense, rows, bits = 0, (self.bounds(schema)[0] - bitmaps) // form.width, 0
        for entry in schema.entries:
            if is_table(entry):
                size = _bytes_of(entry.shape[0])
                taken = yield from _touched_rows(form, entry, payload[bits : bits + size], values[rows:])
                rows, bits = rows + taken, bits + size
            else:
                yield from _whole(form, entry.offset, values[dense : dense + entry.count])
                dense += entry.count

    def _tables(self, schema: ParameterSchema) -> tuple[ParameterEntry, ...]:
        return tuple(entry for entry in schema.entries if is_table(entry)) if self.rows else ()

    def _bitmap_bytes(self, schema: ParameterSchema) -> int:
        """Bytes of all bitmaps; a multiple of an element's, so that the values behind them are aligned."""
        width = schema.dtype.nbytes
        return -(-sum(_bytes_of(table.shape[0]) for table in self._tables(schema)) // width) * width


def _whole(form: Format, start: int, values: Values) -> Iterator[Block]:
    for i in range(0, len(values), BLOCK):
        yield start + i, form.unpack(values[i : i + BLOCK])


def _touched_rows(form: Format, table: ParameterEntry, bitmap: Bytes, values: Values) -> Generator[Block, None, int]:
    """One table's blocks; gives back how many values they took."""
    rows, width = table.shape
    step, at = _step(width), 0
    spread: Vector | None = None
    for first in range(0, rows, step):
        part = bitmap[first // 8 : (first + step) // 8]
        touched = np.unpackbits(part, count=min(step, rows - first), bitorder="little").view(np.bool_)
        count = int(touched.sum()) * width
        if count:
            block = form.unpack(values[at : at + count])
            if count < len(touched) * width:
                spread = np.empty((step, width), dtype=block.dtype) if spread is None else spread
                target = spread[: len(touched)]
                target.fill(0.0)
                target[touched] = block.reshape(-1, width)
                block = target.reshape(-1)
            yield table.offset + first * width, block
            at += count
    return at


def _put(form: Format, values: Values, at: int, part: Vector) -> int:
    """Pack elements to `values[at:]`; where the next ones go."""
    for i in range(0, len(part), BLOCK):
        block = part[i : i + BLOCK]
        values[at + i : at + i + len(block)] = form.pack(block)
    return at + len(part)


_BITS = np.unpackbits(np.arange(256, dtype=np.uint8)[:, np.newaxis], axis=1).sum(axis=1, dtype=np.uint8)
"""How many bits of each byte are set."""


def _bytes_of(rows: int) -> int:
    return -(-rows // 8)


def _step(width: int) -> int:
    """Rows in a block: a multiple of eight, which are whole bytes of the bitmap."""
    return BLOCK // width // 8 * 8


def _touched(matrix: Vector) -> NDArray[np.bool_]:
    """Which rows hold anything but +0.0 and -0.0."""
    touched = np.empty(len(matrix), dtype=np.bool_)
    step = _step(matrix.shape[1])
    for first in range(0, len(matrix), step):
        np.any(matrix[first : first + step], axis=1, out=touched[first : first + step])
    return touched


ENCODINGS: dict[str, Encoding] = {
    encoding.name: encoding
    for encoding in (
        Encoding(DENSE_FLOAT32, rows=False),
        Encoding(ROWS_FLOAT32, rows=True),
        Encoding(DENSE_BFLOAT16, rows=False, shorter=BFLOAT16),
        Encoding(ROWS_BFLOAT16, rows=True, shorter=BFLOAT16),
    )
}
"""Every encoding by its name: what `federation.update_encoding` may say and what a client offers."""


@dataclass(frozen=True)
class EncodedDelta:
    """One scope's part of an update, as it came."""

    encoding: Encoding
    schema: ParameterSchema
    payload: Bytes

    def check(self) -> None:
        """See `Encoding.check`."""
        self.encoding.check(self.payload, self.schema)

    def blocks(self) -> Iterator[Block]:
        """See `Encoding.blocks`."""
        return self.encoding.blocks(self.payload, self.schema)
