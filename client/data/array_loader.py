"""Rows of numbers for one client, whatever their shape: from files or data sets, or generated."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from client.data.array_examples import ArrayExamples
from client.data.array_sources import ArraySource, in_folder, in_tables
from client.data.arrays import ReadArrays, checked
from client.data.columns import ColumnNames
from client.data.examples import TaskData
from client.data.request import DataRequest, shard
from client.data.splits import Places, ScoredSplit, SplitRule, divide
from client.data.synthetic import generate_rows
from client.data.table_sources import TABLES
from common.encoders.row import ArrayEncoder
from common.errors import DataError
from common.inputs import Header
from common.inputs.arrays import header_of
from common.seeds import derive_seed
from common.tasks import TaskDefinition

VALIDATION_SHARE = 4
"""Where a file holds all rows of a task, one in so many is for validation."""


def load(request: DataRequest) -> TaskData:
    """The rows asked for; see `client.data.sources`."""
    if request.source == "builtin":
        return _generated(request)
    task, encoder, names = request.task, request.array_encoder, request.columns or ColumnNames()
    scored = request.scored if request.scored_samples != 0 else None
    if request.source == "files":
        data = read_rows(request.files, task, encoder, request.seed, names, scored=scored, rule=request.split)
    else:
        source = in_tables(TABLES[request.source](request), task, encoder)
        data = _rows_of(source, task, encoder, request.seed, names, scored, request.split)
    train = data.train.take(shard(len(data.train), request, "train", request.train_samples))
    if not len(data.validation):
        return replace(data, train=train)
    mine = shard(len(data.validation), request, request.scored, request.scored_samples)
    return replace(data, train=train, validation=data.validation.take(mine))


def _generated(request: DataRequest) -> TaskData:
    (number, parts), samples, encoder = request.partition, request.builtin_samples, request.array_encoder
    train = generate_rows(request.task, encoder, "train", samples[0] * parts, request.seed)
    validation = generate_rows(request.task, encoder, "validation", samples[1] * parts, request.seed)
    train, validation = (rows.take(np.arange(number - 1, len(rows), parts)) for rows in (train, validation))
    return TaskData(train, validation, "synthetic (built-in)", headers=(header_of(encoder),))


def read_rows(
    folder: Path,
    task: TaskDefinition,
    encoder: ArrayEncoder,
    seed: int,
    names: ColumnNames | None = None,
    *,
    scored: ScoredSplit | None = "validation",
    rule: SplitRule | None = None,
) -> TaskData:
    """Rows of a data folder to train on and to score on, and what their columns are; see `in_folder`.

    What has no file of its own is held out by the `rule`. Without a rule, every fourth row of a file with all rows is
    for validation, in an order that depends on `seed` and the task's name. No rows to score on are needed where
    `scored` is None.

    Raises:
        DataError: there is no such file, or what is wrong with it.
    """
    held = rule is not None and scored is not None and rule.share(scored) > 0
    source = in_folder(folder, task, encoder, None if held else scored)
    return _rows_of(source, task, encoder, seed, names or ColumnNames(), scored, rule)


def _rows_of(
    source: ArraySource,
    task: TaskDefinition,
    encoder: ArrayEncoder,
    seed: int,
    names: ColumnNames,
    scored: ScoredSplit | None,
    rule: SplitRule | None,
) -> TaskData:
    read = source.read("train", names)
    whole = checked(read, task, encoder)
    if source.whole and rule is None and scored != "test":
        training, validating = _every_fourth(len(whole), task, seed, source.origin)
        return _data(encoder, read, (whole.take(training), whole.take(validating)), source.origin)
    found = divide(rule, source.has, task, seed, whole, read.groups, source.origin)
    train = whole if len(found.sides) == 1 else whole.take(found.sides["train"])
    if scored is None:
        validation = whole.take(np.empty(0, dtype=np.int64))
    elif scored in found.sides:
        validation = whole.take(found.sides[scored])
    else:
        wanted = replace(names, features=read.columns.features or names.features)
        validation = checked(source.read(scored, wanted), task, encoder)
    return _data(encoder, read, (train, validation), source.origin, found.notes)


def _every_fourth(count: int, task: TaskDefinition, seed: int, origin: str) -> tuple[Places, Places]:
    if count < 2:
        raise DataError(f"{origin}: task {task.name} has one row; it takes two, to train on and to score on")
    return held_out(count, derive_seed(seed, task.name, "split"))


def held_out(count: int, seed: int) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """Which of at least two rows are to train on, and which to score on, both in ascending order."""
    order = np.random.Generator(np.random.PCG64(seed)).permutation(count)
    scored = max(count // VALIDATION_SHARE, 1)
    return np.sort(order[scored:]), np.sort(order[:scored])


def _data(
    encoder: ArrayEncoder,
    read: ReadArrays,
    splits: tuple[ArrayExamples, ArrayExamples],
    origin: str,
    more: Sequence[str] = (),
) -> TaskData:
    named = () if encoder.row_names else read.columns.features
    header = Header.of(named) if named else header_of(encoder)
    notes = read.table.notes if read.table is not None else ()
    return TaskData(*splits, origin, read.columns, (header,), (*notes, *more))
