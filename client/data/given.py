"""Rows that Python code gives: arrays or lists of texts with their labels."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from client.data.array_examples import ArrayExamples
from client.data.array_loader import held_out
from client.data.arrays import ReadArrays, checked
from client.data.columns import ColumnNames
from client.data.example import Example
from client.data.examples import TaskData
from client.data.parts import joined
from client.data.request import DataRequest
from client.data.texts import TextExamples
from common.encoders.row import ArrayEncoder
from common.errors import DataError
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
    headers = (header_of(request.encoder),) if request.encoder is not None else ()
    return TaskData(train, validation, f"given in Python ({where})", headers=headers)


def labelled(
    task: TaskDefinition, encoder: ArrayEncoder | None, where: str, x: Any, y: Any
) -> ArrayExamples | TextExamples:
    """Checked rows, of numbers where one of our encoders reads them, else single texts; `where` names them.

    Raises:
        DataError: what is wrong with them.
    """
    if encoder is not None and encoder.part_encoders:
        x = _parts_given(x, task, encoder, where)
    if len(x) != len(y):
        raise DataError(f"{where}, task {task.name}: {len(x)} rows and {len(y)} labels; give one label for each row")
    if encoder is not None:
        read = ReadArrays(where, np.asarray(x), np.asarray(y), ColumnNames())
        if read.features.dtype.kind not in "fiub":
            raise DataError(f"{where}, task {task.name}: rows are of type {read.features.dtype}; give numbers")
        return checked(read, task, encoder)
    if task.pair or not task.type.reads_labels:
        raise DataError(f"{where}, task {task.name}: rows given in Python are single texts with labels; use files")
    parse, texts = task.type.label_parser(task), TextExamples()
    for row, (text, label) in enumerate(zip(x, y, strict=True), start=1):
        if not isinstance(text, str):
            raise DataError(f"{where}, task {task.name}, row {row}: {type(text).__name__} is no text; give texts")
        try:
            texts.append(Example(text, None, parse(label.item() if isinstance(label, np.generic) else label)))
        except CellError as problem:
            raise DataError(f"{where}, task {task.name}, row {row}: {problem}") from None
    return texts


def _parts_given(x: Any, task: TaskDefinition, encoder: ArrayEncoder, where: str) -> NDArray[np.float32]:
    if not isinstance(x, Mapping):
        parts = ", ".join(encoder.part_encoders)
        raise DataError(f"{where}, task {task.name}: rows are of type {type(x).__name__}; give a mapping of {parts}")
    arrays = {name: np.asarray(array) for name, array in x.items()}
    return joined(f"{where}, task {task.name}", arrays, task, encoder)
