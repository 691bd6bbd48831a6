"""A client's examples: one function per kind of inputs."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

from client.data import array_loader, files, texts
from client.data.array_sources import in_folder, is_in_all
from client.data.examples import TaskData
from client.data.forms import FORMS
from client.data.request import DataRequest
from client.data.summary import rare_label
from client.data.table_sources import TABLES
from common.errors import DataError

LOADERS: dict[str, Callable[[DataRequest], TaskData]] = {
    "texts": texts.load,
    **dict.fromkeys(FORMS, array_loader.load),
}
"""By the names of `INPUT_KINDS`."""

HAVE_TEST_ROWS = ("files", "hub")
"""Of the sources."""


def load(request: DataRequest) -> TaskData:
    """The examples asked for; the same request gives the same examples in the same order.

    Raises:
        DataError: Data is missing or unusable, or the partition is empty.
    """
    number, parts = request.partition
    if not 1 <= number <= parts:
        raise DataError(f"partition {number} of {parts} does not exist; choose 1..{max(parts, 1)}")
    if request.source == "given":
        raise DataError(f"data.source: given: Python code gave the rows of {request.task.name}; name files: data.dir")
    if request.scored == "test" and request.source not in HAVE_TEST_ROWS:
        raise DataError(f"data.source: {request.source} has no test rows of {request.task.name}; name files: data.dir")
    return finished(LOADERS[request.inputs](request), request)


def has_test_rows(request: DataRequest) -> bool:
    """Whether a task has rows of a test split, in files of their own or held out of its training rows.

    Raises:
        DataError: its data cannot be found.
    """
    if request.source not in HAVE_TEST_ROWS:
        return False
    if request.split is not None and request.split.test > 0:
        return True
    if request.source == "files" and request.inputs in FORMS:
        return in_folder(request.files, request.task, request.array_encoder, "test").has("test")
    return TABLES[request.source](request).has("test")


def standardised(data: TaskData, request: DataRequest) -> TaskData:
    """The examples by their own mean and deviation, or with what the federation is told of them, as asked for."""
    match request.statistics:
        case "site":
            return data.standardised()
        case "federation":
            return replace(data, inputs=data.train.input_sums())
        case "none":
            return data


def is_there(request: DataRequest) -> bool:
    """Whether the folder asked for has files of the task; they may still be refused when they are read.

    Raises:
        DataError: the folder cannot be read.
    """
    folder = request.files
    return files.is_there(folder, request.task.name) or (request.inputs in FORMS and is_in_all(folder, request.task))


def finished(data: TaskData, request: DataRequest) -> TaskData:
    """The examples as they are trained on, with a note where accuracy would hide a label."""
    data = standardised(data, request)
    if request.augmentation is not None:
        data = replace(data, train=data.train.augmented(request.augmentation))
    if request.encoder is not None:
        data = replace(data, lacks=data.train.lacking(request.encoder))
    if note := rare_label(request.task, data):
        data = replace(data, notes=(*data.notes, note))
    return data
