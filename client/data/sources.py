"""A client's examples: where they come from, which share of them is this client's, and how many it uses."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal, assert_never

import numpy as np

from client.data.builtin import generate
from client.data.columns import ColumnNames, Table, to_examples
from client.data.example import Example
from client.data.files import read_split, task_folder
from client.data.hub import read_glue
from common.errors import DataError
from common.seeds import derive_seed
from common.tasks import TaskDefinition

__all__ = ["ColumnNames", "DataRequest", "TaskData", "load", "shard"]

Source = Literal["builtin", "files", "glue"]
Split = Literal["train", "validation"]

BUILTIN_TRAIN_SAMPLES = 1000
BUILTIN_VAL_SAMPLES = 200


@dataclass(frozen=True)
class DataRequest:
    """What one client wants of one task.

    `folder` is needed for files. `partition` is (i, n): this client is the i-th of n, counted from 1, that
    share the rows. `train_samples` and `val_samples` cap the rows of this partition; None means all of them,
    and 1000 and 200 for the built-in text, which has no end.
    """

    task: TaskDefinition
    source: Source
    folder: Path | None = None
    columns: ColumnNames | None = None
    train_samples: int | None = None
    val_samples: int | None = None
    partition: tuple[int, int] = (1, 1)
    seed: int = 0


@dataclass(frozen=True)
class TaskData:
    """The rows of one task that a client trains on and scores with; `origin` says where they come from."""

    train: list[Example]
    validation: list[Example]
    origin: str


def load(request: DataRequest) -> TaskData:
    """The examples asked for; the same request gives the same rows in the same order.

    Raises:
        DataError: Data is missing or unusable, or the partition is empty.
    """
    number, parts = request.partition
    if not 1 <= number <= parts:
        raise DataError(f"partition {number} of {parts} does not exist; choose 1..{max(parts, 1)}")
    match request.source:
        case "builtin":
            return _builtin(request)
        case "files":
            if request.folder is None:
                raise DataError(f"task {request.task.name} is read from files but no data folder is given; set it")
            folder = task_folder(request.folder, request.task.name)
            train, validation = read_split(folder, "train"), read_split(folder, "validation")
            return _from_tables(request, train, validation, str(folder))
        case "glue":
            name = request.task.name
            train, validation = read_glue(name, "train"), read_glue(name, "validation")
            return _from_tables(request, train, validation, f"glue/{name} (Hugging Face hub)")
        case _:
            assert_never(request.source)


def shard(examples: Sequence[Example], request: DataRequest, split: Split, samples: int | None) -> list[Example]:
    """This client's part of `examples`: every n-th row of one seeded order that all n clients agree on.

    Raises:
        DataError: No row is left for this partition.
    """
    number, parts = request.partition
    if samples == 0:
        return []
    seed = derive_seed(request.seed, request.task.name, split, "partition")
    order = np.random.Generator(np.random.PCG64(seed)).permutation(len(examples))
    mine = [examples[row] for row in order[number - 1 :: parts][:samples]]
    if not mine:
        raise DataError(
            f"partition {number} of {parts} of {request.task.name} has no {split} rows: "
            f"there are only {len(examples)}; use fewer partitions"
        )
    return mine


def _builtin(request: DataRequest) -> TaskData:
    number, parts = request.partition

    def rows(split: Split, samples: int) -> list[Example]:
        return generate(request.task.name, split, samples * parts, request.seed)[number - 1 :: parts]

    train = rows("train", request.train_samples or BUILTIN_TRAIN_SAMPLES)
    validation = rows("validation", BUILTIN_VAL_SAMPLES if request.val_samples is None else request.val_samples)
    return TaskData(train, validation, "synthetic (built-in)")


def _from_tables(request: DataRequest, train: Table, validation: Table, origin: str) -> TaskData:
    rows = to_examples(train, request.task, request.columns)
    val_rows = to_examples(validation, request.task, request.columns)
    left_out = sum(len(next(iter(table.columns.values()))) for table in (train, validation))
    left_out -= len(rows) + len(val_rows)
    return TaskData(
        shard(rows, request, "train", request.train_samples),
        shard(val_rows, request, "validation", request.val_samples),
        f"{origin}, {left_out} incomplete rows left out" if left_out else origin,
    )
