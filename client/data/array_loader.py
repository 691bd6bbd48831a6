"""Rows of numbers for one client, whatever their shape: from the files of its folder, or generated."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from client.data.array_examples import ArrayExamples
from client.data.arrays import (
    ARRAYS,
    ENDINGS,
    ReadArrays,
    checked,
    has_rows_of,
    read_arrays,
    read_file,
    read_images,
    splits_in,
)
from client.data.columns import ColumnNames
from client.data.examples import TaskData
from client.data.files import SPLIT_NAMES, find
from client.data.formats import SUFFIXES
from client.data.forms import FORMS
from client.data.image_folders import is_image_folder
from client.data.request import DataRequest, shard
from client.data.splits import Places, ScoredSplit, Split, SplitRule, divide
from client.data.synthetic import generate_rows
from common.encoders.row import ArrayEncoder
from common.errors import DataError
from common.inputs import Header
from common.seeds import derive_seed
from common.tasks import TaskDefinition

ALL = "all.npz"
VALIDATION_SHARE = 4
"""Where a file holds all rows of a task, one in so many is for validation."""


def load(request: DataRequest) -> TaskData:
    """The rows asked for; see `client.data.sources`."""
    if request.source == "builtin":
        return _generated(request)
    data = read_rows(
        request.files,
        request.task,
        request.array_encoder,
        request.seed,
        request.columns,
        scored=request.scored if request.scored_samples != 0 else None,
        rule=request.split,
    )
    train = data.train.take(shard(len(data.train), request, "train", request.train_samples))
    if not len(data.validation):
        return replace(data, train=train)
    scored = data.validation.take(shard(len(data.validation), request, request.scored, request.scored_samples))
    return replace(data, train=train, validation=scored)


def _generated(request: DataRequest) -> TaskData:
    (number, parts), samples, encoder = request.partition, request.builtin_samples, request.array_encoder
    train = generate_rows(request.task, encoder, "train", samples[0] * parts, request.seed)
    validation = generate_rows(request.task, encoder, "validation", samples[1] * parts, request.seed)
    train, validation = (rows.take(np.arange(number - 1, len(rows), parts)) for rows in (train, validation))
    return TaskData(train, validation, "synthetic (built-in)", headers=(Header.shaped(encoder.row_shape),))


@dataclass(frozen=True)
class ArraySource:
    """Where rows of numbers are."""

    origin: str
    """For messages."""
    has: Callable[[Split], bool]
    """Whether a split has rows of its own; no row is read for that."""
    read: Callable[[Split, ColumnNames | None], ReadArrays]
    """The rows of a split, which it must have."""
    whole: bool = False
    """Whether these are all rows of the task, those to score on among them."""


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
    """Rows to train on and to score on of the shape that an encoder reads, and what their columns are.

    Looked for in this order: `<task>/train` with `<task>/validation`, `<task>`, each as .npz (arrays x and y, and the
    features' names where there are any), as a table (features are matched by name) or, for an encoder of images, as a
    folder with a folder of image files per label; then `all.npz` (arrays task, x and y; task holds the tasks' names, or
    the number at the end of each name). A file `<task>.npz` may also hold all splits as MedMNIST's do. What has no file
    of its own is held out by the `rule`. Without a rule, every fourth row of a file with all rows is for validation, in
    an order that depends on `seed` and the task's name. No rows to score on are needed where `scored` is None.

    Raises:
        DataError: there is no such file, or what is wrong with it.
    """
    if not folder.is_dir():
        raise DataError(f"data folder {folder} does not exist; give the folder that holds {task.name}.npz or {ALL}")
    held = rule is not None and scored is not None and rule.share(scored) > 0
    source = _source(folder, task, encoder, None if held else scored)
    read = source.read("train", names)
    whole = checked(read, task, encoder)
    if source.whole and rule is None and scored != "test":
        training, validating = _every_fourth(len(whole), task, seed, source.origin)
        return _data(read, whole.take(training), whole.take(validating), source.origin)
    found = divide(rule, source.has, task, seed, whole, read.groups, source.origin)
    train = whole if len(found.sides) == 1 else whole.take(found.sides["train"])
    if scored is None:
        validation = whole.take(np.empty(0, dtype=np.int64))
    elif scored in found.sides:
        validation = whole.take(found.sides[scored])
    elif source.has(scored):
        wanted = replace(names or ColumnNames(), features=read.columns.features)
        validation = checked(source.read(scored, wanted), task, encoder)
    else:
        remedy = ", or write val_samples: 0" if scored == "validation" else ""
        raise DataError(f"{source.origin} has no {scored} file; name it {scored} with .npz or .csv{remedy}")
    return _data(read, train, validation, source.origin, found.notes)


def _source(folder: Path, task: TaskDefinition, encoder: ArrayEncoder, needed: ScoredSplit | None) -> ArraySource:
    """The first layout that has rows of a task; a folder with its splits must have the one that is needed."""
    images = FORMS[encoder.inputs].from_image_files
    own = folder / task.name
    divided = ArraySource(
        str(own), partial(_has_split, own, images), lambda split, names: _read_split(own, split, task, encoder, names)
    )
    trains = divided.has("train")
    if trains and (needed is None or divided.has(needed)):
        return divided
    paths = find(folder, (task.name,), ENDINGS)
    if paths and paths[0].suffix == ARRAYS and "train" in (splits := splits_in(paths[0])):
        path = paths[0]
        return ArraySource(
            str(path), splits.__contains__, lambda split, names: read_arrays(path, task, names, split=split)
        )
    if paths:
        return _whole(str(paths[0]), lambda names: read_file(paths, task, names))
    if images and not trains and is_image_folder(own):
        return _whole(str(own), lambda names: read_images(own, encoder))
    if (folder / ALL).is_file():
        return _whole(str(folder / ALL), lambda names: read_arrays(folder / ALL, task, names, whose=True))
    if trains:
        return divided
    known = f"{task.name}/train.npz with {task.name}/validation.npz, {task.name}.npz or {ALL}"
    raise DataError(f"data folder {folder} has no rows of task {task.name}; needed {known} (or {_OTHERS})")


def _whole(origin: str, read: Callable[[ColumnNames | None], ReadArrays]) -> ArraySource:
    return ArraySource(origin, lambda split: split == "train", lambda split, names: read(names), whole=True)


def is_in_all(folder: Path, task: TaskDefinition) -> bool:
    """Whether a folder has a file with the rows of all tasks, and some of them are of this one."""
    return (folder / ALL).is_file() and has_rows_of(folder / ALL, task)


def _every_fourth(count: int, task: TaskDefinition, seed: int, origin: str) -> tuple[Places, Places]:
    if count < 2:
        raise DataError(f"{origin}: task {task.name} has one row; it takes two, to train on and to score on")
    return held_out(count, derive_seed(seed, task.name, "split"))


def held_out(count: int, seed: int) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """Which of at least two rows are to train on, and which to score on, both in ascending order."""
    order = np.random.Generator(np.random.PCG64(seed)).permutation(count)
    scored = max(count // VALIDATION_SHARE, 1)
    return np.sort(order[scored:]), np.sort(order[:scored])


_OTHERS = ", ".join(SUFFIXES)


def _has_split(own: Path, images: bool, split: str) -> bool:
    """Whether the task's own folder has files of a split."""
    return bool(find(own, SPLIT_NAMES[split], ENDINGS)) or (images and _image_folder(own, split) is not None)


def _image_folder(own: Path, split: str) -> Path | None:
    return next((own / name for name in SPLIT_NAMES[split] if is_image_folder(own / name)), None)


def _read_split(
    own: Path, split: str, task: TaskDefinition, encoder: ArrayEncoder, names: ColumnNames | None
) -> ReadArrays:
    """The rows of a split in the task's own folder, which has some."""
    if paths := find(own, SPLIT_NAMES[split], ENDINGS):
        return read_file(paths, task, names)
    images = _image_folder(own, split)
    assert images is not None
    return read_images(images, encoder)


def _data(
    read: ReadArrays, train: ArrayExamples, validation: ArrayExamples, origin: str, more: Sequence[str] = ()
) -> TaskData:
    named = read.columns.features
    header = Header.of(named) if named else Header.shaped(train.values.shape[1:])
    notes = read.table.notes if read.table is not None else ()
    return TaskData(train, validation, origin, read.columns, (header,), (*notes, *more))
