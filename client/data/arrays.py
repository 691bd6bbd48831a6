"""Rows of numbers from files: `all.npz`, one `.npz` or `.csv` file per task, or two of them in the task's folder."""

from __future__ import annotations

import csv
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from client.data.columns import LABELS
from client.data.features import FeatureRows, Labels
from client.data.labels import CellError, label_parser
from common.errors import DataError, foreign_errors
from common.seeds import derive_seed
from common.tasks import TaskDefinition, TaskType

ALL = "all.npz"
SUFFIXES = (".npz", ".csv")
VALIDATION_SHARE = 4
"""Where a file holds all rows of a task, one in so many is for validation."""

Array = NDArray[Any]


def read_rows(folder: Path, task: TaskDefinition, features: int, seed: int) -> tuple[FeatureRows, FeatureRows, str]:
    """Training rows, validation rows, and where they come from.

    Looked for in this order: `<task>/train` with `<task>/validation`, `<task>`, each as .npz (arrays x and y) or .csv
    (a header; the label's column is called label, score or y), then `all.npz` (arrays task, x and y; task holds the
    tasks' names, or the number at the end of each name). From a file with all rows, every fourth in an order that
    depends on `seed` and the task's name is for validation.

    Raises:
        DataError: there is no such file, or what is wrong with it.
    """
    if not folder.is_dir():
        raise DataError(f"data folder {folder} does not exist; give the folder that holds {task.name}.npz or {ALL}")
    split = [_find(folder / task.name, name) for name in ("train", "validation")]
    if split[0] is not None and split[1] is not None:
        train, validation = (_checked(path, *_read(path), task, features) for path in split if path is not None)
        return train, validation, str(folder / task.name)
    path = _find(folder, task.name)
    if path is not None:
        whole = _checked(path, *_read(path), task, features)
    elif (folder / ALL).is_file():
        path = folder / ALL
        whole = _checked(path, *_read_task(path, task), task, features)
    else:
        names = f"{task.name}/train.npz with {task.name}/validation.npz, {task.name}.npz or {ALL}"
        raise DataError(f"data folder {folder} has no rows of task {task.name}; needed {names} (or .csv)")
    if len(whole) < 2:
        raise DataError(f"{path}: task {task.name} has one row; it takes two, to train on and to score on")
    order = np.random.Generator(np.random.PCG64(derive_seed(seed, task.name, "split"))).permutation(len(whole))
    held_out = max(len(whole) // VALIDATION_SHARE, 1)
    return whole.take(np.sort(order[held_out:])), whole.take(np.sort(order[:held_out])), str(path)


def _find(folder: Path, name: str) -> Path | None:
    found = [folder / f"{name}{suffix}" for suffix in SUFFIXES if (folder / f"{name}{suffix}").is_file()]
    if len(found) > 1:
        raise DataError(f"{folder} has both {found[0].name} and {found[1].name}; keep one")
    return found[0] if found else None


def _read(path: Path) -> tuple[Array, Array]:
    """Features and raw labels."""
    if path.suffix == ".csv":
        return _read_csv(path)
    x, y = _read_npz(path, "x", "y")
    return x, y


def _read_npz(path: Path, *names: str) -> tuple[Array, ...]:
    unreadable = DataError(f"{path} is not a readable .npz file of plain arrays; write it again")
    with foreign_errors(lambda error: unreadable), np.load(path, allow_pickle=False) as file:
        missing = [name for name in names if name not in file.files]
        if missing:
            present = ", ".join(file.files) or "none"
            raise DataError(f"{path}: array '{missing[0]}' is missing; present are {present}")
        arrays = tuple(file[name] for name in names)
    if len({len(array) if array.ndim else -1 for array in arrays}) > 1:
        sizes = ", ".join(f"{name} {array.shape}" for name, array in zip(names, arrays, strict=True))
        raise DataError(f"{path}: the arrays differ in their number of rows ({sizes})")
    return arrays


def _read_task(path: Path, task: TaskDefinition) -> tuple[Array, Array]:
    """One task's rows of a file that holds all tasks."""
    whose, x, y = _read_npz(path, "task", "x", "y")
    if whose.dtype.kind in "US":
        wanted: object = task.name
    else:
        number = re.search(r"[0-9]{1,9}$", task.name)
        if number is None:
            raise DataError(
                f"{path}: its tasks are numbers, and '{task.name}' ends with none; name tasks such as {task.name}0"
            )
        wanted = int(number[0])
    mine = whose.astype(str) == wanted if isinstance(wanted, str) else whose == wanted
    if not mine.any():
        raise DataError(f"{path}: no row is of task {wanted} ('{task.name}')")
    return x[mine], y[mine]


def _read_csv(path: Path) -> tuple[Array, Array]:
    try:
        with path.open(encoding="utf-8-sig", newline="") as file:
            rows = [row for row in csv.reader(file, strict=True) if row]
    except (OSError, UnicodeDecodeError, csv.Error) as error:
        raise DataError(f"{path} cannot be read as CSV ({type(error).__name__}); mend it") from None
    names = [name for name in (*LABELS, "y") if rows and name in rows[0]]
    if not names:
        raise DataError(f"{path}: no column is called {', '.join((*LABELS, 'y'))}; the first line must be a header")
    header = rows.pop(0)
    place = header.index(names[0])
    features = np.empty((len(rows), len(header) - 1), dtype=np.float64)
    for number, row in enumerate(rows, start=1):
        if len(row) != len(header):
            raise DataError(f"{path}, row {number}: {len(row)} columns where the header has {len(header)}; mend it")
        try:
            features[number - 1] = row[:place] + row[place + 1 :]
        except ValueError:
            raise DataError(f"{path}, row {number}: a feature is not a number; mend or remove the row") from None
    return features, np.array([row[place] for row in rows], dtype=str)


def _checked(path: Path, x: Array, y: Array, task: TaskDefinition, features: int) -> FeatureRows:
    if not len(x):
        raise DataError(f"{path} has no rows; give at least one")
    if x.dtype.kind not in "fiub":
        raise DataError(f"{path}: features are of type {x.dtype}; give numbers")
    with np.errstate(over="ignore"):
        flat = np.ascontiguousarray(x.reshape(len(x), -1), dtype=np.float32)
    if flat.shape[1] != features:
        raise DataError(f"{path}: rows have {flat.shape[1]} features, model.mlp.features is {features}; change one")
    bad = ~np.isfinite(flat).all(axis=1)
    if bad.any():
        raise DataError(
            f"{path}, row {int(bad.argmax()) + 1}: a feature is not a finite float32; mend or remove the row"
        )
    try:
        return FeatureRows(flat, _labels(y, task))
    except CellError as problem:
        raise DataError(f"{path}, task {task.name}: {problem}") from None


def _labels(y: Array, task: TaskDefinition) -> Labels:
    """Labels as `FeatureRows` holds them; each different value is read once, as a cell of a table would be."""
    parse: Callable[[object], object] = label_parser(task)
    if task.type is TaskType.MULTILABEL and y.ndim == 2:
        if y.shape[1] != len(task.labels) or not np.isin(y, (0, 1)).all():
            raise CellError(f"y must be zeros and ones, one column for each of {len(task.labels)} labels")
        return y.astype(np.float32)
    if y.ndim == 2 and y.shape[1] == 1:
        y = y[:, 0]
    if y.ndim != 1:
        raise CellError(f"y has shape {y.shape}, not (rows,)")
    values, places = np.unique(y, return_inverse=True)
    parsed = [parse(_cell(value)) for value in values.tolist()]
    if task.type is TaskType.CLASSIFICATION:
        return np.array(parsed, dtype=np.int64)[places]
    if task.type is TaskType.REGRESSION:
        return np.array(parsed, dtype=np.float64)[places]
    table = np.zeros((len(parsed), len(task.labels)), dtype=np.float32)
    for row, chosen in enumerate(parsed):
        table[row, np.asarray(chosen, dtype=np.int64)] = 1.0
    return table[places]


def _cell(value: object) -> object:
    """A value as a table would hold it: 1.0 stands for class 1."""
    return int(value) if isinstance(value, float) and value.is_integer() else value
