"""Tables whose columns an encoder names: numbers and categories, some of them missing."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace

import numpy as np
from numpy.typing import NDArray

from client.data.arrays import ReadArrays, numbers_of
from client.data.columns import ColumnNames, Table, label_column, require_columns
from common.encoders.row import ArrayEncoder
from common.encoders.tabular import MISSING, NAMED, UNKNOWN, Column, TabularEncoder, category_text
from common.tasks import TaskDefinition

MISSING_WORDS = frozenset({"", "na", "n/a", "nan", "nat", "<na>", "null", "none", "?"})
"""What programs write for a value that is missing, in lower case, unless it is the name of a category."""

Places = NDArray[np.float64]


def read_columns(
    table: Table, task: TaskDefinition, encoder: ArrayEncoder, names: ColumnNames | None, *, labelled: bool = True
) -> ReadArrays:
    """The rows of a table as the encoder reads them: columns are found by name, others are left alone.

    Numbers are as they are, or their logarithm, NaN where they are missing; categories are their places (`MISSING`,
    `UNKNOWN`, `NAMED` and on).

    Raises:
        DataError: a column is missing, a cell is no number, or the label cannot be found.
    """
    assert isinstance(encoder, TabularEncoder)
    layout = encoder.layout
    wanted = tuple(column.name for column in layout)
    require_columns(table, wanted, f"model.{encoder.name}.columns")
    names = names or ColumnNames()
    others = (*wanted, *filter(None, [names.group]))
    label = label_column(table, task, names.label, others) if labelled else None
    rows = np.empty((len(table), len(layout)), dtype=np.float64)
    notes: list[str] = []
    for place, column in enumerate(layout):
        if column.categories:
            rows[:, place] = _places(table.columns[column.name], column.categories)
            notes += _unknown(table, column, rows[:, place])
        else:
            rows[:, place] = _quantities(table, column)
    labels = table.columns[label] if label is not None else []
    told = replace(table, notes=(*table.notes, *notes))
    groups = table.groups(names.group) if labelled else None
    return ReadArrays(table.origin, rows, labels, replace(names, label=label, features=wanted), told, groups)


def columns_of(encoder: ArrayEncoder) -> tuple[str, ...]:
    """The columns of tables that an encoder names; none where it names none."""
    return tuple(column.name for column in encoder.layout) if isinstance(encoder, TabularEncoder) else ()


def some_cell(table: Table, names: Sequence[str]) -> NDArray[np.bool_]:
    """Which rows have a value in any of these columns, (rows,)."""
    known = [[not _is_missing(cell) for cell in table.columns[name]] for name in names]
    return np.array([any(cells) for cells in zip(*known, strict=True)], dtype=np.bool_)


def column_table(origin: str, columns: Mapping[str, Sequence[object]]) -> Table:
    """A table from what Python code has: a DataFrame, or a mapping from names to lists."""
    return Table(origin, {str(name): list(columns[name]) for name in columns})


def _quantities(table: Table, column: Column) -> Places:
    cells = table.columns[column.name]
    filled: list[object] = [math.nan if _is_missing(cell) else cell for cell in cells]
    found = numbers_of(replace(table, columns={column.name: filled}), [column.name])[:, 0]
    return np.copysign(np.log1p(np.abs(found)), found) if column.log else found


def _places(cells: Sequence[object], categories: Sequence[str]) -> Places:
    known = {text: NAMED + at for at, text in enumerate(categories)}
    whole = {f"{text}.0": place for text, place in known.items() if text.isdecimal()}
    known = whole | known  # programs write 1.0 for 1 where the column has gaps

    def place(cell: object) -> int:
        return known.get(category_text(cell), MISSING if _is_missing(cell) else UNKNOWN)

    return np.array([place(cell) for cell in cells], dtype=np.float64)


def _is_missing(cell: object) -> bool:
    if isinstance(cell, float):
        return math.isnan(cell)
    return not isinstance(cell, int) and str(cell).strip().casefold() in MISSING_WORDS


def _unknown(table: Table, column: Column, places: Places) -> Iterator[str]:
    rows = np.flatnonzero(places == UNKNOWN)
    if len(rows):
        cell = category_text(table.columns[column.name][rows[0]])
        said = f"{cell[:80]!r} is no category that the encoder names; so are {len(rows)} of {len(places)} rows"
        yield f"{table.place(int(rows[0]) + 1)}, column {column.name!r}: {said}, and they count as unknown"
