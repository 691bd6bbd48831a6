"""Rows of several parts, of which some may be missing: one array per part, with the parts' names."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from client.data.arrays import ARRAYS, ReadArrays, arrays_in, groups_in, label_array, values_of
from client.data.columns import ColumnNames
from common.encoders.row import ArrayEncoder
from common.errors import DataError
from common.inputs.kind import BRIGHTEST
from common.tasks import TaskDefinition

HAS = "has_"
"""Before a part's name: the array that says which rows have it, where not all do."""


def read_parts(
    paths: Sequence[Path], task: TaskDefinition, encoder: ArrayEncoder, names: ColumnNames | None
) -> ReadArrays:
    """Rows with their labels from an array file that has an array for each part, as far as there is one.

    Raises:
        DataError: what is wrong with the file.
    """
    path = paths[0]
    if len(paths) > 1 or not path.name.endswith(ARRAYS):
        raise DataError(f"{path}: rows of several parts are read from one {ARRAYS} file; write an array for each part")
    arrays = arrays_in(path)
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
