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
    data = LOADERS[request.inputs](request)
    if request.standardise:
        train, validation = data.train.standardised(data.validation)
        data = replace(data, train=train, validation=validation)
    if note := rare_label(request.task, data):
        data = replace(data, notes=(*data.notes, note))
    return data
