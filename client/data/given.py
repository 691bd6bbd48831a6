"""Rows that Python code gives: arrays or lists of texts with their labels."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from client.data.array_examples import ArrayExamples
from client.data.array_loader import held_out
from client.data.arrays import ReadArrays, checked, without_labels
from client.data.columns import ColumnNames, read_text, require_labels
from client.data.example import Example
from client.data.examples import TaskData
from client.data.forms import FORMS
from client.data.parts import HAS, joined
from client.data.request import DataRequest
from client.data.tables import column_table, columns_of, read_columns, some_cell
from client.data.texts import TextExamples, UnlabelledTexts
from common.encoders.row import ArrayEncoder
from common.errors import DataError, foreign_errors
from common.inputs import Header
from common.inputs.arrays import header_of
from common.seeds import derive_seed
from common.tasks import TaskDefinition
from common.tasks.labels import CellError


def read_given(request: DataRequest, site: str, values: Sequence[Any]) -> TaskData:
    """The rows of one task of a site.

    Args:
        request: the task, how many rows are wanted, and what reads them.
        site: whose rows they are.
        values: rows and labels, (x, y), of which every fourth is for validation: the same ones in every task of a site
            that has as many rows. Or (x, y, x_validation, y_validation).

    Raises:
        DataError: what is wrong with them.
    """
    task, where = request.task, f"site {site}"
    found: list[Any] = [
        labelled(task, request.encoder, where, x, y) for x, y in zip(values[::2], values[1::2], strict=True)
    ]
    if len(found) == 1:
        if len(found[0]) < 2:
            raise DataError(f"{where}, task {task.name}: one row; it takes two, to train on and to score on")
        training, scored = held_out(len(found[0]), derive_seed(request.seed, site, "split"))
        found = [found[0].take(training), found[0].take(scored)]
    caps = request.train_samples, request.val_samples
    train, validation = (rows.take(np.arange(len(rows))[:most]) for rows, most in zip(found, caps, strict=True))
    headers = () if request.encoder is None else (_header(values[0], request.encoder),)
    return TaskData(train, validation, f"given in Python ({where})", headers=headers)


def rows_in(x: Any) -> int:
    """How many rows Python code gave: as an array or list, by column, or by part."""
    return rows_in(next(iter(x.values()), ())) if isinstance(x, Mapping) else len(x)


def _header(x: Any, encoder: ArrayEncoder) -> Header:
    """What the numbers in a row are: those of a DataFrame have names."""
    names = _column_names(x)
    return Header.of(names) if names and not encoder.row_names else header_of(encoder)


def _column_names(x: Any) -> tuple[str, ...]:
    return tuple(map(str, getattr(x, "columns", ())))


def labelled(
    task: TaskDefinition, encoder: ArrayEncoder | None, where: str, x: Any, y: Any
) -> ArrayExamples | TextExamples:
    """Checked rows, of numbers where one of our encoders reads them, else single texts; `where` names them.

    Raises:
        DataError: what is wrong with them.
    """
    place = f"{where}, task {task.name}"
    read = None if encoder is None else _rows(task, encoder, where, x)
    if (count := rows_in(x)) != len(y):
        raise DataError(f"{place}: {count} rows and {len(y)} labels; give one label for each row")
    if encoder is not None and read is not None:
        with foreign_errors(lambda error: DataError(f"{place}: labels make no array ({error}); give one for each row")):
            read = replace(read, labels=np.asarray(y))
        return checked(read, task, encoder)
    parse, texts = task.type.label_parser(task), _texts(task, where, x)
    for row, (text, label) in enumerate(zip(texts, y, strict=True)):
        try:
            found = parse(label.tolist() if isinstance(label, np.generic | np.ndarray) else label)
            texts[row] = replace(text, label=found)
            require_labels(task, texts[row])
        except CellError as problem:
            raise DataError(f"{place}, row {row + 1}: {problem}") from None
    return texts


def unlabelled(
    task: TaskDefinition, encoder: ArrayEncoder | None, where: str, x: Any, trained: Header | None
) -> ArrayExamples | TextExamples:
    """The same of rows that nobody has labelled; columns of a DataFrame are found by the names that `trained` has.

    Raises:
        DataError: what is wrong with them.
    """
    if encoder is None:
        return UnlabelledTexts(_texts(task, where, x))
    names = _column_names(x)
    if names and trained is not None and not encoder.row_names and len(trained.names) == trained.count:
        missing = next((name for name in trained.names if name not in names), None)
        if missing is not None:
            raise DataError(f"{where}, task {task.name}: no column is called '{missing}'; name them as for training")
        x = x[[x.columns[names.index(name)] for name in trained.names]]
    return without_labels(_rows(task, encoder, where, x), task, encoder)


def _texts(task: TaskDefinition, where: str, x: Any) -> TextExamples:
    if task.pair:
        raise DataError(f"{where}, task {task.name}: rows given in Python are single texts; use files")
    texts = TextExamples()
    for row, given in enumerate(x, start=1):
        worded = task.type.asks == "words"
        if not (worded or isinstance(given, str)):
            raise DataError(f"{where}, task {task.name}, row {row}: {type(given).__name__} is no text; give texts")
        try:
            texts.append(Example(read_text(task, given) if worded else given, None, task.type.no_label))
        except CellError as problem:
            raise DataError(f"{where}, task {task.name}, row {row}: {problem}") from None
    return texts


def _rows(task: TaskDefinition, encoder: ArrayEncoder, where: str, x: Any) -> ReadArrays:
    """Rows of numbers, without labels."""
    if encoder.part_encoders:
        return ReadArrays(where, _parts_given(x, task, encoder, where), [], ColumnNames())
    if not FORMS[encoder.inputs].by_column:
        return _arrays(task, where, x)
    if not hasattr(x, "keys"):
        raise DataError(
            f"{where}, task {task.name}: rows are of type {type(x).__name__}; give a DataFrame, or lists by column"
        )
    return read_columns(column_table(where, x), task, encoder, None, labelled=False)


def _arrays(task: TaskDefinition, where: str, x: Any) -> ReadArrays:
    place, names = f"{where}, task {task.name}", _column_names(x)
    with foreign_errors(lambda error: DataError(f"{place}: rows make no array ({error}); give rows of one shape")):
        read = ReadArrays(where, np.asarray(x), [], ColumnNames(features=names))
    if read.features.dtype.kind in "fiub":
        return read
    worded = next((name for name in getattr(x, "columns", ()) if np.asarray(x[name]).dtype.kind not in "fiub"), None)
    what = f"rows are of type {read.features.dtype}" if worded is None else f"column '{worded}' holds no numbers"
    raise DataError(f"{place}: {what}; give numbers")


def _parts_given(x: Any, task: TaskDefinition, encoder: ArrayEncoder, where: str) -> NDArray[np.float32]:
    if not isinstance(x, Mapping):
        parts = ", ".join(encoder.part_encoders)
        raise DataError(f"{where}, task {task.name}: rows are of type {type(x).__name__}; give a mapping of {parts}")
    place, arrays = f"{where}, task {task.name}", {}
    for name, rows in x.items():
        part = encoder.part_encoders.get(name)
        if part is None or not columns_of(part) or not hasattr(rows, "keys"):
            arrays[name] = np.asarray(rows)
            continue
        table = column_table(f"{place}, part {name}", rows)
        arrays[name] = np.asarray(read_columns(table, task, part, None, labelled=False).features)
        arrays[HAS + name] = some_cell(table, columns_of(part))
    return joined(place, arrays, task, encoder)
