"""A client's examples: where they come from, which share of them is this client's, and how many it uses."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Literal, assert_never

import numpy as np
from numpy.typing import NDArray

from client.data.arrays import read_rows
from client.data.builtin import generate
from client.data.columns import ColumnNames, Table, examples_in, text_columns
from client.data.example import Example
from client.data.features import FeatureRows, standardised
from client.data.files import read_split, task_folder
from client.data.hub import read_glue
from client.data.rows import TaskData, pick
from client.data.synthetic import generate_rows
from common.errors import DataError
from common.inputs.header import Header
from common.seeds import derive_seed
from common.tasks import TaskDefinition

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
            return _from_tables(request, partial(read_split, folder), str(folder))
        case "glue":
            name = request.task.name
            return _from_tables(request, partial(read_glue, name), f"glue/{name} (Hugging Face hub)")
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


def _builtin(request: DataRequest) -> TaskData:
    number, parts = request.partition

    def rows(split: Split, samples: int) -> list[Example]:
        name = request.task.type.builtin_data(request.task.name)
        return generate(name, split, samples * parts, request.seed)[number - 1 :: parts]

    train = rows("train", request.train_samples or BUILTIN_TRAIN_SAMPLES)
    validation = rows("validation", BUILTIN_VAL_SAMPLES if request.val_samples is None else request.val_samples)
    return TaskData(train, validation, "synthetic (built-in)")


def _from_tables(request: DataRequest, read: Callable[[Split], Table], origin: str) -> TaskData:
    """Texts from two tables, or from one where no row is scored."""
    task = request.task
    tables = [read("train")] if request.val_samples == 0 else [read("train"), read("validation")]
    columns = [text_columns(table, task, request.columns) for table in tables]
    found = [examples_in(table, task, chosen) for table, chosen in zip(tables, columns, strict=True)]
    rows, val_rows = (*found, [])[:2]
    left_out = sum(map(len, tables)) - len(rows) - len(val_rows)
    return TaskData(
        pick(rows, shard(len(rows), request, "train", request.train_samples)),
        pick(val_rows, shard(len(val_rows), request, "validation", request.val_samples)),
        f"{origin}, {left_out} incomplete rows left out" if left_out else origin,
        columns[0],
        notes=tuple(note for table in tables for note in table.notes),
    )


def _numbers(request: DataRequest, features: int) -> TaskData:
    """Rows of numbers, from files or generated."""
    if request.source == "builtin":
        data = _generated(request, features)
    else:
        if request.folder is None:
            raise DataError(f"task {request.task.name} is read from files but no data folder is given; set it")
        scored = request.val_samples != 0
        data = read_rows(request.folder, request.task, features, request.seed, request.columns, scored=scored)
        train = pick(data.train, shard(len(data.train), request, "train", request.train_samples))
        validation = pick(data.validation, shard(len(data.validation), request, "validation", request.val_samples))
        data = replace(data, train=train, validation=validation)
    if request.standardise and isinstance(data.train, FeatureRows) and isinstance(data.validation, FeatureRows):
        train, validation = standardised(data.train, data.validation)
        data = replace(data, train=train, validation=validation)
    return data


def _generated(request: DataRequest, features: int) -> TaskData:
    number, parts = request.partition
    train_samples = request.train_samples or BUILTIN_TRAIN_SAMPLES
    val_samples = BUILTIN_VAL_SAMPLES if request.val_samples is None else request.val_samples
    train = generate_rows(request.task, features, "train", train_samples * parts, request.seed)
    validation = generate_rows(request.task, features, "validation", val_samples * parts, request.seed)
    train, validation = (rows.take(np.arange(number - 1, len(rows), parts)) for rows in (train, validation))
    return TaskData(train, validation, "synthetic (built-in)", header=Header(features))
