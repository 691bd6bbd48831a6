"""Where rows of numbers are: the layouts of a data folder, and tables from anywhere."""

from __future__ import annotations

from collections.abc import Callable, Collection, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path

from client.data.arrays import (
    ARRAYS,
    ENDINGS,
    ReadArrays,
    from_table,
    has_rows_of,
    read_arrays,
    read_file,
    read_images,
    splits_in,
)
from client.data.columns import ColumnNames, Table
from client.data.files import SPLIT_NAMES, find, read_all
from client.data.formats import SUFFIXES
from client.data.forms import FORMS
from client.data.image_folders import is_image_folder
from client.data.parts import parts_in_table, read_parts
from client.data.splits import ScoredSplit, Split
from client.data.table_sources import TableSource
from client.data.tables import read_columns
from common.encoders.row import ArrayEncoder
from common.errors import DataError
from common.tasks import TaskDefinition

ALL = "all.npz"


@dataclass(frozen=True)
class ArraySource:
    """Where a task's rows of numbers are."""

    origin: str
    """For messages."""
    has: Callable[[Split], bool]
    """Whether a split has rows of its own; no row is read for that."""
    read: Callable[[Split, ColumnNames], ReadArrays]
    """The rows of a split, or a `DataError` that says how to give some."""
    whole: bool = False
    """Whether the training rows are all rows of the task, those to score on among them."""


def in_tables(source: TableSource, task: TaskDefinition, encoder: ArrayEncoder) -> ArraySource:
    """Rows in tables."""
    return ArraySource(
        source.origin, source.has, lambda split, names: _from_table(source.read(split), task, encoder, names)
    )


def in_folder(folder: Path, task: TaskDefinition, encoder: ArrayEncoder, needed: ScoredSplit | None) -> ArraySource:
    """The first layout of a data folder that has rows of a task.

    Looked for in this order: `<task>/train` with the split that is `needed` beside it, `<task>`, each as .npz (arrays x
    and y, and the features' names where there are any), as a table (features are matched by name), as a folder that the
    package `datasets` saved, or, for an encoder of images, as a folder with a folder of image files per label; then
    `all.npz` (arrays task, x and y; task holds the tasks' names, or the number at the end of each name). A file
    `<task>.npz` may also hold all splits as MedMNIST's do.

    Raises:
        DataError: there is none.
    """
    if not folder.is_dir():
        raise DataError(f"data folder {folder} does not exist; give the folder that holds {task.name}.npz or {ALL}")
    form = FORMS[encoder.inputs]
    images, endings = form.from_image_files, _endings(encoder)
    own = folder / task.name
    divided = ArraySource(str(own), partial(_has_split, own, encoder), partial(_read_split, own, task, encoder))
    trains = divided.has("train")
    if trains and (needed is None or divided.has(needed)):
        return divided
    paths = find(folder, (task.name,), endings)
    if paths and paths[0].suffix == ARRAYS and "train" in (splits := splits_in(paths[0])):
        return ArraySource(str(paths[0]), splits.__contains__, partial(_read_own, paths[0], splits, task))
    if paths:
        return _whole(str(paths[0]), lambda names: _read(paths, task, encoder, names))
    if images and not trains and is_image_folder(own):
        return _whole(str(own), lambda names: read_images(own, encoder))
    if (folder / ALL).is_file() and not form.by_column:
        return _whole(str(folder / ALL), lambda names: read_arrays(folder / ALL, task, names, whose=True))
    if trains:
        return divided
    if form.by_column:
        known = f"{task.name}/train with {task.name}/validation, or {task.name}, each as {_OTHERS}"
        raise DataError(f"data folder {folder} has no table of task {task.name}; needed {known}")
    known = f"{task.name}/train.npz with {task.name}/validation.npz, {task.name}.npz or {ALL}"
    raise DataError(f"data folder {folder} has no rows of task {task.name}; needed {known} (or {_OTHERS})")


def _whole(origin: str, read: Callable[[ColumnNames], ReadArrays]) -> ArraySource:
    def rows(split: Split, names: ColumnNames) -> ReadArrays:
        if split != "train":
            raise _none_of(split, origin)
        return read(names)

    return ArraySource(origin, lambda split: split == "train", rows, whole=True)


def _read_own(
    path: Path, splits: Collection[str], task: TaskDefinition, split: Split, names: ColumnNames
) -> ReadArrays:
    """The rows of a split from a file with arrays for each."""
    if split not in splits:
        raise _none_of(split, str(path))
    return read_arrays(path, task, names, split=split)


def _read(paths: Sequence[Path], task: TaskDefinition, encoder: ArrayEncoder, names: ColumnNames) -> ReadArrays:
    if FORMS[encoder.inputs].by_column:
        return _from_table(read_all(paths), task, encoder, names)
    return (read_parts if encoder.part_encoders else read_file)(paths, task, encoder, names)


def _from_table(table: Table, task: TaskDefinition, encoder: ArrayEncoder, names: ColumnNames) -> ReadArrays:
    if encoder.part_encoders:
        return parts_in_table(table, task, encoder, names)
    return (read_columns if FORMS[encoder.inputs].by_column else from_table)(table, task, encoder, names)


def _endings(encoder: ArrayEncoder) -> tuple[str, ...]:
    """Of the files that hold rows for an encoder."""
    return SUFFIXES if FORMS[encoder.inputs].by_column else ENDINGS


def _none_of(split: Split, origin: str) -> DataError:
    remedy = ", or write val_samples: 0" if split == "validation" else ""
    return DataError(f"{origin} has no {split} file; name it {split} with .npz or .csv{remedy}")


def is_in_all(folder: Path, task: TaskDefinition) -> bool:
    """Whether a folder has a file with the rows of all tasks, and some of them are of this one."""
    return (folder / ALL).is_file() and has_rows_of(folder / ALL, task)


def _has_split(own: Path, encoder: ArrayEncoder, split: str) -> bool:
    """Whether the task's own folder has files of a split."""
    images = FORMS[encoder.inputs].from_image_files
    return bool(find(own, SPLIT_NAMES[split], _endings(encoder))) or (images and _image_folder(own, split) is not None)


def _image_folder(own: Path, split: str) -> Path | None:
    return next((own / name for name in SPLIT_NAMES[split] if is_image_folder(own / name)), None)


def _read_split(own: Path, task: TaskDefinition, encoder: ArrayEncoder, split: Split, names: ColumnNames) -> ReadArrays:
    """The rows of a split in the task's own folder."""
    if paths := find(own, SPLIT_NAMES[split], _endings(encoder)):
        return _read(paths, task, encoder, names)
    images = _image_folder(own, split) if FORMS[encoder.inputs].from_image_files else None
    if images is None:
        raise _none_of(split, str(own))
    return read_images(images, encoder)


_OTHERS = ", ".join(SUFFIXES)
