"""Rows of numbers for one client, whatever their shape: from the files of its folder, or generated."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from client.data.array_examples import ArrayExamples
from client.data.arrays import ENDINGS, ReadArrays, checked, holds_splits, read_arrays, read_file, read_images
from client.data.columns import ColumnNames
from client.data.examples import TaskData
from client.data.files import SPLIT_NAMES, find
from client.data.formats import SUFFIXES
from client.data.forms import FORMS
from client.data.image_folders import is_image_folder
from client.data.parts import read_parts
from client.data.request import DataRequest, shard
from client.data.synthetic import generate_rows
from common.encoders.row import ArrayEncoder
from common.errors import DataError
from common.inputs import Header
from common.inputs.arrays import header_of
from common.seeds import derive_seed
from common.tasks import TaskDefinition

ALL = "all.npz"
VALIDATION_SHARE = 4
"""Where a file holds all rows of a task, one in so many is for validation."""


def load(request: DataRequest) -> TaskData:
    """The rows asked for; see `client.data.sources`."""
    if request.source == "builtin":
        return _generated(request)
    scored, encoder = request.val_samples != 0, request.array_encoder
    data = read_rows(request.files, request.task, encoder, request.seed, request.columns, scored=scored)
    train = data.train.take(shard(len(data.train), request, "train", request.train_samples))
    validation = data.validation.take(shard(len(data.validation), request, "validation", request.val_samples))
    return replace(data, train=train, validation=validation)


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
    scored: bool = True,
) -> TaskData:
    """Training and validation rows of the shape that an encoder reads, and what their columns are.

    Looked for in this order: `<task>/train` with `<task>/validation`, `<task>`, each as .npz (arrays x and y, and the
    features' names where there are any), as a table (features are matched by name) or, for an encoder of images, as a
    folder with a folder of image files per label; then `all.npz` (arrays task, x and y; task holds the tasks' names, or
    the number at the end of each name). A file `<task>.npz` may also hold both splits as MedMNIST's do. From a file
    with all rows, every fourth in an order that depends on `seed` and the task's name is for validation. Unless rows
    shall be `scored`, the folder of a task needs no validation rows.

    Raises:
        DataError: there is no such file, or what is wrong with it.
    """
    if not folder.is_dir():
        raise DataError(f"data folder {folder} does not exist; give the folder that holds {task.name}.npz or {ALL}")
    own = folder / task.name
    train, wanted = _split(own, "train", task, encoder, names), names
    if train is not None:
        wanted = replace(names or ColumnNames(), features=train.columns.features)
        validation = _split(own, "validation", task, encoder, wanted)
        if validation is not None or not scored:
            rows = checked(train, task, encoder)
            none = rows.take(np.empty(0, dtype=np.int64))
            scoring = none if validation is None else checked(validation, task, encoder)
            return _data(encoder, train, (rows, scoring), str(own))
    paths = find(folder, (task.name,), ENDINGS)
    if paths and paths[0].suffix == ".npz" and holds_splits(paths[0]):
        train, validation = (read_arrays(paths[0], task, names, split=split) for split in ("train", "validation"))
        splits = checked(train, task, encoder), checked(validation, task, encoder)
        return _data(encoder, train, splits, str(paths[0]))
    if paths:
        read = _read(paths, task, encoder, names)
    elif FORMS[encoder.inputs].from_image_files and train is None and is_image_folder(own):
        read = read_images(own, encoder)
    elif (folder / ALL).is_file():
        read = read_arrays(folder / ALL, task, names, whose=True)
    elif train is not None:
        raise DataError(f"{own} has no validation file; name it validation with .npz or .csv, or write val_samples: 0")
    else:
        needed = f"{task.name}/train.npz with {task.name}/validation.npz, {task.name}.npz or {ALL}"
        raise DataError(f"data folder {folder} has no rows of task {task.name}; needed {needed} (or {_OTHERS})")
    whole = checked(read, task, encoder)
    if len(whole) < 2:
        raise DataError(f"{read.origin}: task {task.name} has one row; it takes two, to train on and to score on")
    training, validating = held_out(len(whole), derive_seed(seed, task.name, "split"))
    return _data(encoder, read, (whole.take(training), whole.take(validating)), read.origin)


def held_out(count: int, seed: int) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """Which of at least two rows are to train on, and which to score on, both in ascending order."""
    order = np.random.Generator(np.random.PCG64(seed)).permutation(count)
    scored = max(count // VALIDATION_SHARE, 1)
    return np.sort(order[scored:]), np.sort(order[:scored])


def _read(paths: Sequence[Path], task: TaskDefinition, encoder: ArrayEncoder, names: ColumnNames | None) -> ReadArrays:
    return read_parts(paths, task, encoder, names) if encoder.part_encoders else read_file(paths, task, names)


_OTHERS = ", ".join(SUFFIXES)


def _split(
    own: Path, split: str, task: TaskDefinition, encoder: ArrayEncoder, names: ColumnNames | None
) -> ReadArrays | None:
    """The rows of a split in the task's own folder, if it has any."""
    if paths := find(own, SPLIT_NAMES[split], ENDINGS):
        return _read(paths, task, encoder, names)
    if not FORMS[encoder.inputs].from_image_files:
        return None
    folders = (own / name for name in SPLIT_NAMES[split])
    return next((read_images(folder, encoder) for folder in folders if is_image_folder(folder)), None)


def _data(
    encoder: ArrayEncoder, read: ReadArrays, splits: tuple[ArrayExamples, ArrayExamples], origin: str
) -> TaskData:
    named = read.columns.features
    header = Header.of(named) if named else header_of(encoder)
    notes = read.table.notes if read.table is not None else ()
    return TaskData(*splits, origin, read.columns, (header,), notes)
