"""Rows of several parts, of which some may be missing: an array or column per part, with the parts' names."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from client.data.arrays import ARRAYS, ReadArrays, arrays_in, groups_in, label_array, values_of
from client.data.cells import stacked_with_gaps
from client.data.columns import ColumnNames, Table, label_column, require_columns
from client.data.files import read_all
from client.data.tables import columns_of, read_columns, some_cell
from common.encoders.row import ArrayEncoder
from common.errors import DataError
from common.inputs.kind import BRIGHTEST
from common.tasks import TaskDefinition

HAS = "has_"
"""Before a part's name: the array that says which rows have it, where not all do."""


def read_parts(
    paths: Sequence[Path],
    task: TaskDefinition,
    encoder: ArrayEncoder,
    names: ColumnNames | None,
    *,
    labelled: bool = True,
) -> ReadArrays:
    """Rows, and their labels unless they are to be answered, from one array file or from a table.

    Who has no rows of a part leaves its array or column out.

    Raises:
        DataError: what is wrong with the file.
    """
    path = paths[0]
    if not path.name.endswith((ARRAYS, ARRAYS + ".gz")):
        return parts_in_table(read_all(paths), task, encoder, names or ColumnNames(), labelled=labelled)
    if len(paths) > 1 or not path.name.endswith(ARRAYS):
        raise DataError(f"{path}: arrays of several parts are read from one {ARRAYS} file; put them together in one")
    arrays = arrays_in(path)
    if not labelled:
        return ReadArrays(str(path), joined(str(path), arrays, task, encoder), [], ColumnNames())
    own = {*encoder.part_encoders, *(HAS + name for name in encoder.part_encoders)}
    others = {name: array for name, array in arrays.items() if name not in own}
    label = label_array(path, others, task, names.label if names is not None else None)
    if label not in arrays:
        raise DataError(f"{path}: array '{label}' is missing; present are {', '.join(arrays) or 'none'}")
    found = joined(str(path), arrays, task, encoder)
    if len(found) != len(arrays[label]):
        raise DataError(f"{path}: {len(found)} rows, but '{label}' has {len(arrays[label])}; give one for each")
    groups = groups_in(path, arrays, names.group if names is not None else None, len(found))
    return ReadArrays(str(path), found, arrays[label], ColumnNames(label=label), groups=groups)


def parts_in_table(
    table: Table, task: TaskDefinition, encoder: ArrayEncoder, names: ColumnNames, *, labelled: bool = True
) -> ReadArrays:
    """The rows of a table: of each part a column of whole rows, called as the part is, or the columns of its own table.

    A row lacks a part whose cell is missing, or all of whose cells are.

    Raises:
        DataError: what is wrong with the table.
    """
    arrays: dict[str, NDArray[Any]] = {}
    taken, notes = [name for name in [names.group] if name], list(table.notes)
    for name, part in encoder.part_encoders.items():
        if name in table.columns:
            arrays[name], arrays[HAS + name] = stacked_with_gaps(table, name, part)
            taken.append(name)
        elif own := [column for column in columns_of(part) if column in table.columns]:
            require_columns(table, columns_of(part), f"model.{encoder.name}.parts.{name}.{part.name}.columns")
            read = read_columns(replace(table, notes=()), task, part, None, labelled=False)
            notes += read.table.notes if read.table is not None else ()
            arrays[name], arrays[HAS + name] = np.asarray(read.features), some_cell(table, own)
            taken += own
    if not arrays:
        wanted, present = ", ".join(encoder.part_encoders), ", ".join(table.columns) or "none"
        raise DataError(f"{table.origin}: no column is called {wanted}; present are {present}")
    found = joined(table.origin, arrays, task, encoder)
    told = replace(table, notes=tuple(notes))
    if not labelled:
        return ReadArrays(table.origin, found, [], ColumnNames(), told)
    label = label_column(table, task, names.label, taken)
    chosen = replace(names, label=label, features=())
    return ReadArrays(table.origin, found, table.columns[label], chosen, told, table.groups(names.group))


def joined(
    where: str, arrays: Mapping[str, NDArray[Any]], task: TaskDefinition, encoder: ArrayEncoder
) -> NDArray[np.float32]:
    """All parts one after the other, flattened: (rows, numbers); NaN where a row has no such part.

    Args:
        where: names the rows in messages.
        arrays: of each part (rows, *shape), or none; `has_<part>` (rows,) may say which rows have it, else those do
            whose numbers are not all NaN.
        task: whose rows they are.
        encoder: what reads them.

    Raises:
        DataError: what is wrong with them.
    """
    given = {name: arrays[name] for name in encoder.part_encoders if name in arrays}
    if not given:
        wanted, present = ", ".join(encoder.part_encoders), ", ".join(arrays) or "none"
        raise DataError(f"{where}: no array is called {wanted}; present are {present}")
    counts = {name: len(array) if array.ndim else -1 for name, array in given.items()}
    if len({*counts.values()}) > 1:
        sizes = ", ".join(f"{name} {array.shape}" for name, array in given.items())
        raise DataError(f"{where}: the parts differ in their number of rows ({sizes})")
    rows = next(iter(counts.values()))
    columns, anything = [], np.zeros(rows, dtype=np.bool_)
    for name, part in encoder.part_encoders.items():
        if name not in given:
            columns.append(np.full((rows, int(np.prod(part.row_shape))), np.nan, dtype=np.float32))
            continue
        has = _has(where, name, given[name], arrays.get(HAS + name))
        values = _part(f"{where}, part {name}", given[name], has, task, part)
        columns.append(np.where(has[:, None], values, np.float32(np.nan)))
        anything |= has
    if not anything.all():
        raise DataError(f"{where}, row {int((~anything).argmax()) + 1}: it has no part at all; remove it")
    return np.concatenate(columns, axis=1)


def _has(where: str, name: str, array: NDArray[Any], said: NDArray[Any] | None) -> NDArray[np.bool_]:
    if said is not None:
        if said.dtype != np.bool_ or said.shape != array.shape[:1]:
            raise DataError(f"{where}: array '{HAS}{name}' must be bool ({len(array)},); mend or remove it")
        return said
    if array.dtype.kind != "f":
        return np.ones(len(array), dtype=np.bool_)
    found: NDArray[np.bool_] = ~np.isnan(array.reshape(len(array), -1)).all(axis=1)
    return found


def _part(
    where: str, array: NDArray[Any], has: NDArray[np.bool_], task: TaskDefinition, encoder: ArrayEncoder
) -> NDArray[np.float32]:
    if array.dtype.kind not in "fiub":
        raise DataError(f"{where}: it is of type {array.dtype}; give numbers")
    there = array if has.all() else np.where(has.reshape(-1, *[1] * (array.ndim - 1)), array, array.dtype.type(0))
    values = values_of(ReadArrays(where, there, [], ColumnNames()), task, encoder)
    scaled = values.astype(np.float32) / np.float32(BRIGHTEST if values.dtype == np.uint8 else 1.0)
    return scaled.reshape(len(values), -1)
