"""A client's examples: one function per kind of inputs."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

from client.data import array_loader, texts
from client.data.examples import TaskData
from client.data.forms import FORMS
from client.data.request import DataRequest
from client.data.summary import rare_label
from common.errors import DataError

LOADERS: dict[str, Callable[[DataRequest], TaskData]] = {
    "texts": texts.load,
    **dict.fromkeys(FORMS, array_loader.load),
}
"""By the names of `INPUT_KINDS`."""


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
    return finished(LOADERS[request.inputs](request), request)


def finished(data: TaskData, request: DataRequest) -> TaskData:
    """The examples as they are trained on, with a note where accuracy would hide a label."""
    if request.standardise:
        train, validation = data.train.standardised(data.validation)
        data = replace(data, train=train, validation=validation)
    if request.encoder is not None:
        data = replace(data, lacks=data.train.lacking(request.encoder))
    if note := rare_label(request.task, data):
        data = replace(data, notes=(*data.notes, note))
    return data
