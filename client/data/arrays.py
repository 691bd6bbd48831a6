"""Rows of numbers from one array file, table or folder of images, checked."""

from __future__ import annotations

import math
import re
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from client.data.array_examples import ArrayExamples
from client.data.cells import row_column, stacked
from client.data.columns import LABELS, ColumnNames, Table, group_names, label_column, number_columns
from client.data.files import read_all
from client.data.formats import SUFFIXES
from client.data.forms import form_of
from client.data.image_folders import read_image_folder
from common.encoders.row import ArrayEncoder
from common.errors import DataError, foreign_errors
from common.tasks import TaskDefinition
from common.tasks.kind import Label, Labels
from common.tasks.labels import CellError, quoted

ARRAYS = ".npz"
ENDINGS = (ARRAYS, *SUFFIXES)
NAMES = ("names", "feature_names", "columns")
"""What an array is called that holds the names of the features."""
SPLITS = {"train": "train", "validation": "val", "test": "test"}
"""What MedMNIST calls its splits."""

Array = NDArray[Any]


@dataclass(frozen=True)
class ReadArrays:
    """Features and labels as they were read. `table` is where they stand, for messages; an array file has none."""

    origin: str
    features: Array
    labels: Array | list[object]
    columns: ColumnNames
    table: Table | None = None
    groups: list[str] | None = None
    """The group of each row, where a person named a column or an array of groups and it is there."""

    def place(self, row: int) -> str:
        """Where a row is, counted from 1."""
        return self.table.place(row) if self.table is not None else f"{self.origin}, row {row}"

    def feature(self, number: int) -> str:
        """What a feature is called, counted from 1."""
        return f"column {self.columns.features[number - 1]!r}" if self.columns.features else f"feature {number}"


def read_file(
    paths: Sequence[Path], task: TaskDefinition, encoder: ArrayEncoder, names: ColumnNames | None
) -> ReadArrays:
    """An array file, or a table, which may lie in several."""
    if not paths[0].name.endswith((ARRAYS, ARRAYS + ".gz")):
        return from_table(read_all(paths), task, encoder, names or ColumnNames())
    if len(paths) > 1:
        raise DataError(f"{paths[0]}: shards of {ARRAYS} files are not read; put them together in one")
    if paths[0].name.endswith(ARRAYS + ".gz"):
        raise DataError(f"{paths[0]}: an {ARRAYS} file is packed by itself; unpack it with gunzip")
    return read_arrays(paths[0], task, names)


def from_table(table: Table, task: TaskDefinition, encoder: ArrayEncoder, names: ColumnNames) -> ReadArrays:
    """The rows of a table: a column for each feature, or one column of whole rows."""
    groups = table.groups(names.group)
    whole = row_column(table, task, encoder, names)
    if whole is not None:
        label = label_column(table, task, names.label, [name for name in (whole, names.group) if name])
        columns = replace(names, label=label, features=())
        return ReadArrays(table.origin, stacked(table, whole, encoder), table.columns[label], columns, table, groups)
    columns = number_columns(table, task, names)
    assert columns.label is not None
    features = numbers_of(table, columns.features)
    return ReadArrays(table.origin, features, table.columns[columns.label], columns, table, groups)


def numbers_of(table: Table, names: Sequence[str]) -> NDArray[np.float64]:
    """Columns of a table as numbers, (rows, columns)."""
    features = np.empty((len(table), len(names)), dtype=np.float64)
    for place, name in enumerate(names):
        features[:, place] = _numbers(table, name)
    return features


def _numbers(table: Table, name: str) -> NDArray[np.float64]:
    """A column of a table as numbers."""
    cells = table.columns[name]
    try:
        column = np.array(cells, dtype=np.float64)
    except (ValueError, TypeError, OverflowError):
        column = None
    if column is not None and column.ndim == 1 and not any(map(_is_slip, cells)):
        return column
    for row, cell in enumerate(cells, start=1):
        if not _is_number(cell):
            text = "" if cell is None else str(cell).strip()
            what = f"{quoted(text)} is not a number" if text else "the cell is empty"
            raise DataError(f"{table.place(row)}, column {name!r}: {what}; mend or remove the row")
    raise DataError(f"{table.origin}, column {name!r}: its cells are not numbers; mend it")


def _is_slip(cell: object) -> bool:
    """Whether numpy and Python take for a number what is none: a gap, or 1_0."""
    return cell is None or (isinstance(cell, str) and "_" in cell)


def _is_number(cell: object) -> bool:
    if _is_slip(cell):
        return False
    try:
        float(cell)  # type: ignore[arg-type]
    except (ValueError, TypeError, OverflowError):
        return False
    return True


def splits_in(path: Path) -> frozenset[str]:
    """The splits that an array file holds with names of their own, as those of MedMNIST do (Yang et al. 2023)."""
    with foreign_errors(_unreadable(path)), np.load(path, allow_pickle=False) as file:
        return frozenset(split for split, (x, y) in _SPLIT_ARRAYS.items() if {x, y} <= {*file.files})


_SPLIT_ARRAYS = {split: (f"{name}_images", f"{name}_labels") for split, name in SPLITS.items()}


def read_arrays(
    path: Path, task: TaskDefinition, names: ColumnNames | None, *, whose: bool = False, split: str | None = None
) -> ReadArrays:
    """The arrays of a file, or of one `split` of it; where it says `whose` rows they are, those of one task."""
    if split is None:
        arrays = arrays_in(path)
    else:  # the arrays of other splits stay unread
        arrays = dict(zip("xy", arrays_in(path, _SPLIT_ARRAYS[split]).values(), strict=True))
    named = names or ColumnNames()
    label = label_array(path, arrays, task, named.label)
    needed = ("task", "x", label) if whose else ("x", label)
    missing = [name for name in needed if name not in arrays]
    if missing:
        raise DataError(f"{path}: array '{missing[0]}' is missing; present are {', '.join(arrays) or 'none'}")
    x, y = arrays["x"], arrays[label]
    if len({len(arrays[name]) if arrays[name].ndim else -1 for name in needed}) > 1:
        sizes = ", ".join(f"{name} {arrays[name].shape}" for name in needed)
        raise DataError(f"{path}: the arrays differ in their number of rows ({sizes})")
    groups = groups_in(path, arrays, named.group, len(x))
    if whose:
        mine = _rows_of(path, arrays["task"], task)
        x, y = x[mine], y[mine]
        groups = groups if groups is None else [groups[row] for row in np.flatnonzero(mine)]
    return replace(by_name(path, arrays, x, y, task, replace(named, label=label)), groups=groups)


def groups_in(path: Path, arrays: Mapping[str, Array], name: str | None, rows: int) -> list[str] | None:
    """The group of each of so many rows, which an array names; None where there is no such array."""
    if name is None or name not in arrays:
        return None
    if arrays[name].ndim != 1 or len(arrays[name]) != rows:
        raise DataError(f"{path}: array '{name}' has shape {arrays[name].shape}, not one value for each row")
    return group_names(arrays[name].tolist(), lambda row: f"{path}, row {row}")


def arrays_in(path: Path, wanted: Collection[str] | None = None) -> dict[str, Array]:
    """The arrays of a file by name, or those that are wanted, in their order."""
    with foreign_errors(_unreadable(path)), np.load(path, allow_pickle=False) as file:
        return {name: file[name] for name in (file.files if wanted is None else wanted)}


def _unreadable(path: Path) -> Callable[[Exception], DataError]:
    return lambda error: DataError(f"{path} is not a readable .npz file of plain arrays; write it again")


def read_images(folder: Path, encoder: ArrayEncoder) -> ReadArrays:
    """The images of a folder that has a folder for each label."""
    images, labels = read_image_folder(folder, encoder.row_shape)
    return ReadArrays(str(folder), images, labels, ColumnNames())


def label_array(path: Path, arrays: dict[str, Array], task: TaskDefinition, named: str | None) -> str:
    """What the array of the labels is called."""
    candidates: dict[str, list[object]] = {name: [] for name in arrays if name not in ("x", "task", *NAMES)}
    if named is None and not {name.casefold() for name in candidates} & {name.casefold() for name in LABELS}:
        return "y"
    return label_column(Table(str(path), candidates), task, named, ())


def _feature_names(path: Path, arrays: Mapping[str, Array], x: Array) -> list[str]:
    """The names of the features, none where the file does not tell."""
    found = [name for name in arrays if name in NAMES and arrays[name].dtype.kind in "US"]
    if len(found) > 1:
        raise DataError(f"{path}: the features' names could be in '{found[0]}' or '{found[1]}'; keep one")
    if not found:
        return []
    names = [name.decode(errors="replace") if isinstance(name, bytes) else name for name in arrays[found[0]].tolist()]
    size = math.prod(x.shape[1:])
    if arrays[found[0]].shape != (size,) or len({*names}) < len(names):
        raise DataError(f"{path}: array '{found[0]}' must name each of {size} features once; mend it")
    return names


def by_name(
    path: Path, arrays: Mapping[str, Array], x: Array, y: Array, task: TaskDefinition, named: ColumnNames
) -> ReadArrays:
    """The features that a person named, in their order; all of them where nobody did, or where they have no names."""
    if x.dtype.kind not in "fiub":
        raise DataError(f"{path}: features are of type {x.dtype}; give numbers")
    present = _feature_names(path, arrays, x)
    wanted = named.features or tuple(present)
    if present:
        missing = next((name for name in wanted if name not in present), None)
        if missing is not None:
            raise DataError(
                f"{path}: feature '{missing}' is missing; present are {', '.join(present)}; rename it or set "
                f"tasks.{task.name}.columns.features"
            )
        x = x.reshape(len(x), len(present))[:, [present.index(name) for name in wanted]]
    return ReadArrays(str(path), x, y, ColumnNames(label=named.label, features=wanted if present else ()))


def has_rows_of(path: Path, task: TaskDefinition) -> bool:
    """Whether any row of a file with all tasks is this task's."""
    with foreign_errors(_unreadable(path)), np.load(path, allow_pickle=False) as file:
        whose = file["task"] if "task" in file.files else None
    if whose is None:
        return True  # whoever reads it says what is missing
    wanted = _wanted(whose, task)
    return wanted is not None and bool(_mine(whose, wanted).any())


def _wanted(whose: Array, task: TaskDefinition) -> str | int | None:
    """How a file with all tasks calls this one: by its name, or by the number at its end; None if it has none."""
    if whose.dtype.kind in "US":
        return task.name
    number = re.search(r"[0-9]{1,9}$", task.name)
    return int(number[0]) if number is not None else None


def _mine(whose: Array, wanted: str | int) -> NDArray[np.bool_]:
    mine: NDArray[np.bool_] = whose.astype(str) == wanted if isinstance(wanted, str) else whose == wanted
    return mine


def _rows_of(path: Path, whose: Array, task: TaskDefinition) -> NDArray[np.bool_]:
    """Which rows of a file with all tasks are this task's."""
    wanted = _wanted(whose, task)
    if wanted is None:
        raise DataError(
            f"{path}: its tasks are numbers, and '{task.name}' ends with none; name tasks such as {task.name}0"
        )
    mine = _mine(whose, wanted)
    if not mine.any():
        raise DataError(f"{path}: no row is of task {wanted} ('{task.name}')")
    return mine


def checked(read: ReadArrays, task: TaskDefinition, encoder: ArrayEncoder) -> ArrayExamples:
    """The rows as the encoder reads them, with their labels; finite, and of its shape."""
    values, labels = values_of(read, task, encoder), _labels(read, task)
    if task.type.per_pixel and labels.shape[1:] != values.shape[2:]:
        maps, images = _times(labels.shape[1:]), _times(values.shape[2:])
        raise DataError(
            f"{read.origin}, task {task.name}: y has maps of {maps}, images are {images} (height x width); "
            "give a label for each pixel"
        )
    return ArrayExamples(values, labels, form_of(encoder))


def without_labels(read: ReadArrays, task: TaskDefinition, encoder: ArrayEncoder) -> ArrayExamples:
    """The same for rows that nobody has labelled; their labels mean nothing."""
    values = values_of(read, task, encoder)
    return ArrayExamples(values, task.type.targets(task, [task.type.no_label] * len(values)), form_of(encoder))


def values_of(read: ReadArrays, task: TaskDefinition, encoder: ArrayEncoder) -> NDArray[np.float32] | NDArray[np.uint8]:
    """The same without the labels, (rows, *shape)."""
    if not len(read.features):
        raise DataError(f"{read.origin} has no rows; give at least one")
    form, wanted = form_of(encoder), encoder.row_shape
    x = form.fit(read.features, wanted)
    if x.shape[1:] != wanted:
        raise _another_shape(read, x.shape[1:], task, encoder)
    if form.keeps_bytes and x.dtype == np.uint8:
        return np.ascontiguousarray(x)
    with np.errstate(over="ignore"):
        values = np.ascontiguousarray(x, dtype=np.float32)
    good = np.isfinite(values) | (np.isnan(values) if form.has_gaps else False)
    if not good.all():
        row, number = divmod(int((~good).argmax()), math.prod(wanted))
        raise DataError(
            f"{read.place(row + 1)}, {read.feature(number + 1)}: {x[row].flat[number]} is not a finite float32; "
            "mend or remove the row"
        )
    return values


def _another_shape(read: ReadArrays, shape: tuple[int, ...], task: TaskDefinition, encoder: ArrayEncoder) -> DataError:
    named = read.columns.features
    listed = f" ({', '.join([*named[:10], '...'][: len(named)])})" if named else ""
    remedy = f"name those wanted in tasks.{task.name}.columns.features, or change one" if named else "change one"
    if encoder.flattens:
        have, key, wants = f"rows have {shape[0]} features{listed}", "features", str(encoder.row_shape[0])
    else:
        have, key, wants = f"rows are {_times(shape)}", "shape", _times(encoder.row_shape)
        if encoder.has_weights:
            return DataError(f"{read.origin}: {have}, the model of model.{encoder.name} reads {wants}; change the rows")
    return DataError(f"{read.origin}: {have}, model.{encoder.name}.{key} is {wants}; {remedy}")


def _times(shape: tuple[int, ...]) -> str:
    return "x".join(map(str, shape)) or "single numbers"


def _labels(read: ReadArrays, task: TaskDefinition) -> Labels:
    """Labels as `ArrayExamples` holds them; each different value of an array is read once."""
    y = read.labels
    if isinstance(y, np.ndarray):
        try:
            found = task.type.read_array(task, y) if y.ndim > 1 else None
        except CellError as problem:
            raise DataError(f"{read.origin}, task {task.name}: {problem}") from None
        if found is not None:
            return found
        if y.ndim == 2 and y.shape[1] == 1:
            y = y[:, 0]
        if y.ndim != 1:
            raise DataError(f"{read.origin}, task {task.name}: y has shape {y.shape}, not (rows,)")
        values, first, places = np.unique(y, return_index=True, return_inverse=True)
        return task.type.targets(task, _parsed(read, task, values.tolist(), first.tolist()))[places]
    return task.type.targets(task, _parsed(read, task, y, range(len(y))))


def _parsed(read: ReadArrays, task: TaskDefinition, cells: Sequence[object], rows: Sequence[int]) -> list[Label]:
    parse = task.type.label_parser(task)
    parsed = []
    for cell, row in zip(cells, rows, strict=True):
        try:
            parsed.append(parse(cell))
        except CellError as problem:
            where = f"{read.place(row + 1)}, column {read.columns.label!r}"
            raise DataError(f"{where}, task {task.name}: {problem}") from None
    return parsed
