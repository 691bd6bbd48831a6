"""A client's examples: where they come from, which share of them is this client's, and how many it uses."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Literal, assert_never

import numpy as np
from numpy.typing import NDArray

from client.data.arrays import read_rows
from client.data.builtin import generate
from client.data.columns import ColumnNames, Table, to_examples
from client.data.example import Example
from client.data.features import FeatureRows, standardised
from client.data.files import read_split, task_folder
from client.data.hub import read_glue
from client.data.synthetic import generate_rows
from common.errors import DataError
from common.seeds import derive_seed
from common.tasks import TaskDefinition, TaskType

__all__ = ["ColumnNames", "DataRequest", "TaskData", "load", "pick", "shard"]

Source = Literal["builtin", "files", "glue"]
Split = Literal["train", "validation"]

BUILTIN_TRAIN_SAMPLES = 1000
BUILTIN_VAL_SAMPLES = 200


@dataclass(frozen=True)
class DataRequest:
    """What one client wants of one task.

    `folder` is needed for files. `partition` is (i, n): this client is the i-th of n, counted from 1, that
    share the rows. `train_samples` and `val_samples` cap the rows of this partition; None means all of them,
    and 1000 and 200 for the built-in rows, which have no end. `features` says that rows are so many
    numbers instead of texts; `standardise` is for those.
    """

    task: TaskDefinition
    source: Source
    folder: Path | None = None
    columns: ColumnNames | None = None
    train_samples: int | None = None
    val_samples: int | None = None
    partition: tuple[int, int] = (1, 1)
    seed: int = 0
    features: int | None = None
    standardise: bool = False


Rows = list[Example] | FeatureRows


@dataclass(frozen=True)
class TaskData:
    """The rows of one task that a client trains on and scores with; `origin` says where they come from."""

    train: Rows
    validation: Rows
    origin: str


def load(request: DataRequest) -> TaskData:
    """The examples asked for; the same request gives the same rows in the same order.

    Raises:
        DataError: Data is missing or unusable, or the partition is empty.
    """
    number, parts = request.partition
    if not 1 <= number <= parts:
        raise DataError(f"partition {number} of {parts} does not exist; choose 1..{max(parts, 1)}")
    if request.features is not None:
        return _numbers(request, request.features)
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


def shard(count: int, request: DataRequest, split: Split, samples: int | None) -> NDArray[np.int64]:
    """Which of `count` rows are this client's: every n-th of one seeded order that all n clients agree on.

    Raises:
        DataError: No row is left for this partition.
    """
    number, parts = request.partition
    if samples == 0:
        return np.empty(0, dtype=np.int64)
    seed = derive_seed(request.seed, request.task.name, split, "partition")
    order = np.random.Generator(np.random.PCG64(seed)).permutation(count)
    mine: NDArray[np.int64] = order[number - 1 :: parts][:samples]
    if not len(mine):
        raise DataError(
            f"partition {number} of {parts} of {request.task.name} has no {split} rows: "
            f"there are only {count}; use fewer partitions"
        )
    return mine


def pick(rows: Rows, places: NDArray[np.int64]) -> Rows:
    """The rows at these places, in this order."""
    return rows.take(places) if isinstance(rows, FeatureRows) else [rows[place] for place in places]


def _builtin(request: DataRequest) -> TaskData:
    number, parts = request.partition

    def rows(split: Split, samples: int) -> list[Example]:
        name = "sst2" if request.task.type is TaskType.MASKED_LM else request.task.name  # its texts, without labels
        return generate(name, split, samples * parts, request.seed)[number - 1 :: parts]

    train = rows("train", request.train_samples or BUILTIN_TRAIN_SAMPLES)
    validation = rows("validation", BUILTIN_VAL_SAMPLES if request.val_samples is None else request.val_samples)
    return TaskData(train, validation, "synthetic (built-in)")


def _from_tables(request: DataRequest, train: Table, validation: Table, origin: str) -> TaskData:
    rows = to_examples(train, request.task, request.columns)
    val_rows = to_examples(validation, request.task, request.columns)
    left_out = sum(len(next(iter(table.columns.values()))) for table in (train, validation))
    left_out -= len(rows) + len(val_rows)
    return TaskData(
        pick(rows, shard(len(rows), request, "train", request.train_samples)),
        pick(val_rows, shard(len(val_rows), request, "validation", request.val_samples)),
        f"{origin}, {left_out} incomplete rows left out" if left_out else origin,
    )


def _numbers(request: DataRequest, features: int) -> TaskData:
    """Rows of numbers, from files or generated."""
    number, parts = request.partition
    train_samples, val_samples = request.train_samples, request.val_samples
    if request.source == "builtin":
        train_samples = train_samples or BUILTIN_TRAIN_SAMPLES
        val_samples = BUILTIN_VAL_SAMPLES if val_samples is None else val_samples
        train = generate_rows(request.task, features, "train", train_samples * parts, request.seed)
        validation = generate_rows(request.task, features, "validation", val_samples * parts, request.seed)
        train, validation = (rows.take(np.arange(number - 1, len(rows), parts)) for rows in (train, validation))
        origin = "synthetic (built-in)"
    else:
        if request.folder is None:
            raise DataError(f"task {request.task.name} is read from files but no data folder is given; set it")
        train, validation, origin = read_rows(request.folder, request.task, features, request.seed)
        train = train.take(shard(len(train), request, "train", train_samples))
        validation = validation.take(shard(len(validation), request, "validation", val_samples))
    if request.standardise:
        train, validation = standardised(train, validation)
    return TaskData(train, validation, origin)
