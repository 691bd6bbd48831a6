"""Where a task's tables are: one function per source."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial

from client.data.columns import Table
from client.data.files import has_split, read_split, task_folder
from client.data.hub import read_glue
from client.data.request import DataRequest
from client.data.splits import Split
from common.errors import DataError


@dataclass(frozen=True)
class TableSource:
    """Where the tables of a task are, one per split."""

    origin: str
    """For messages."""
    has: Callable[[Split], bool]
    """Whether a split has a table of its own; none is read for that."""
    read: Callable[[Split], Table]
    """The table of a split, or a `DataError` that says how to give one."""


def _files(request: DataRequest) -> TableSource:
    folder = task_folder(request.files, request.task.name)
    return TableSource(str(folder), partial(has_split, folder), partial(read_split, folder))


def _glue(request: DataRequest) -> TableSource:
    name = request.task.name
    return TableSource(f"glue/{name} (Hugging Face hub)", lambda split: split != "test", partial(read_glue, name))


def _hub(request: DataRequest) -> TableSource:
    if request.dataset is None:
        raise DataError(f"task {request.task.name} is read from the hub; name tasks.{request.task.name}.dataset")
    return TableSource(str(request.dataset), request.dataset.has, request.dataset.read)


TABLES: dict[str, Callable[[DataRequest], TableSource]] = {"files": _files, "hub": _hub, "glue": _glue}
"""By `data.source`."""
