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
    rows: list[Array] = []
    for number, cell in enumerate(table.columns[column], start=1):
        where = f"{table.place(number)}, column {column!r}"
        row = _row(image_bytes(cell), encoder, where)
        if rows and row.shape != rows[0].shape:
            raise DataError(f"{where}: shape {row.shape}, but {rows[0].shape} in the first row; give all rows the same")
        rows.append(row)
    return np.stack(rows)


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
