"""Tables of which one column holds whole rows of numbers: as lists, as arrays, or as files of images."""

from __future__ import annotations

from io import BytesIO
from typing import Any

import numpy as np
from numpy.typing import NDArray

from client.data.columns import LABELS, ColumnNames, Table
from client.data.forms import FORMS
from client.data.image_folders import pixels
from client.data.sets import image_bytes
from common.encoders.row import ArrayEncoder
from common.errors import DataError
from common.tasks import TaskDefinition

Array = NDArray[Any]


def row_column(table: Table, task: TaskDefinition, encoder: ArrayEncoder, names: ColumnNames) -> str | None:
    """The column that holds whole rows, if there is one: the one that is named, else the only one of its sort.

    Raises:
        DataError: there are several.
    """
    wanted = names.features or tuple(name for name in table.columns if name not in (names.label, names.group))
    usual = {name.casefold() for name in LABELS} if not names.features and names.label is None else set()
    found = [name for name in wanted if name.casefold() not in usual and _holds_rows(table, name)]
    if len(found) > 1:
        several = " or ".join(map(repr, found))
        remedy = "keep one" if encoder.flattens else f"name the right one in tasks.{task.name}.columns.features"
        raise DataError(f"{table.origin}: rows could be in {several}; {remedy}")
    return found[0] if found else None


def _holds_rows(table: Table, name: str) -> bool:
    first = next(iter(table.columns.get(name, ())), None)
    return isinstance(image_bytes(first), list | np.ndarray | bytes)


def stacked(table: Table, column: str, encoder: ArrayEncoder) -> Array:
    """The cells of a column as rows of one shape.

    Raises:
        DataError: a cell is no image of the encoder's size and no array of numbers, or of another shape than the first.
    """
    return np.stack([row for row in _rows(table, column, encoder) if row is not None])


def stacked_with_gaps(table: Table, column: str, encoder: ArrayEncoder) -> tuple[Array, NDArray[np.bool_]]:
    """The same where cells may be missing: zeros stand in their places, and which cells are there.

    Raises:
        DataError: see `stacked`.
    """
    rows = _rows(table, column, encoder, gaps=True)
    has = np.array([row is not None for row in rows], dtype=np.bool_)
    there = [row for row in rows if row is not None]
    if not there:
        return np.zeros((len(rows), *encoder.row_shape)), has
    known = np.stack(there)
    found = np.zeros((len(rows), *known.shape[1:]), dtype=known.dtype)
    found[has] = known
    return found, has


def _rows(table: Table, column: str, encoder: ArrayEncoder, gaps: bool = False) -> list[Array | None]:
    """A row for each cell; None for a missing one, where there may be `gaps`."""
    rows: list[Array | None] = []
    first: Array | None = None
    for number, cell in enumerate(table.columns[column], start=1):
        content = image_bytes(cell)
        if gaps and (content is None or (isinstance(content, str) and not content.strip())):
            rows.append(None)
            continue
        where = f"{table.place(number)}, column {column!r}"
        row = _row(content, encoder, where)
        first = row if first is None else first
        if row.shape != first.shape:
            raise DataError(f"{where}: shape {row.shape}, but {first.shape} in the first row; give all rows the same")
        rows.append(row)
    return rows


def _row(cell: object, encoder: ArrayEncoder, where: str) -> Array:
    if isinstance(cell, bytes):
        if not FORMS[encoder.inputs].from_image_files:
            raise DataError(f"{where}: an image, but {encoder.name} reads {encoder.inputs}; choose another encoder")
        return pixels(BytesIO(cell), encoder.row_shape, where)
    try:
        row = np.asarray(cell)
    except ValueError:  # lists of different lengths
        row = np.empty(0, dtype=object)
    if row.dtype.kind not in "fiub":
        raise DataError(f"{where}: {type(cell).__name__} is no array of numbers; mend or remove the row")
    return row
