"""Where a task's files are: `FOLDER/<task>/{train,validation}.*` by usual names, or the official GLUE folders."""

from __future__ import annotations

import re
from collections import defaultdict
from collections.abc import Sequence
from pathlib import Path

from client.data.columns import Table
from client.data.formats import SUFFIXES, read_table
from client.data.sets import is_saved
from common.errors import DataError

SPLIT_NAMES = {
    "train": ("train",),
    "validation": ("validation", "valid", "val", "dev", "validation_matched", "dev_matched"),
    "test": ("test",),
}
OFFICIAL_FOLDERS = {
    "sst2": "SST-2",
    "qqp": "QQP",
    "stsb": "STS-B",
    "mrpc": "MRPC",
    "rte": "RTE",
    "cola": "CoLA",
    "qnli": "QNLI",
    "mnli": "MNLI",
    "wnli": "WNLI",
}
OFFICIAL_HEADERS = {"CoLA": ("source", "label", "star", "sentence")}
"""Official files that come without a header."""
HUB_FOLDER = "data"
"""Where many data sets of the Hugging Face hub keep their files."""


def task_folder(folder: Path, task: str) -> Path:
    """The folder of one task's files: named like the task, else the task's official GLUE folder.

    Raises:
        DataError: There is none.
    """
    if not folder.is_dir():
        raise DataError(f"data folder {folder} does not exist; give the folder that holds {task}/train.tsv")
    # Compared as listed, because some file systems would find CoLA under the name cola.
    listed = {entry.name for entry in _entries(folder) if entry.is_dir()}
    wanted = _folder_names(task)
    for name in wanted:
        if name in listed:
            return folder / name
    raise DataError(f"data folder {folder} has no folder {' or '.join(wanted)}; put the files of {task} there")


def _folder_names(task: str) -> list[str]:
    return [task] + ([OFFICIAL_FOLDERS[task]] if task in OFFICIAL_FOLDERS else [])


def is_there(folder: Path, task: str) -> bool:
    """Whether a folder has a folder or a file that is called like the task, whatever may be in it.

    Raises:
        DataError: the folder cannot be read.
    """
    names = _folder_names(task)
    return any(entry.name in names or entry.name.startswith(f"{task}.") for entry in _entries(folder))


def has_split(folder: Path, split: str) -> bool:
    """Whether the folder of a task has files of a split.

    Raises:
        DataError: there are several, or a shard is missing.
    """
    return bool(_split_files(folder, split))


def _split_files(folder: Path, split: str) -> list[Path]:
    found = find(folder, SPLIT_NAMES[split]) or find(folder / HUB_FOLDER, SPLIT_NAMES[split])
    return found or ([folder] if split == "train" and is_saved(folder) else [])


def read_split(folder: Path, split: str) -> Table:
    """One split from the folder of its task.

    Raises:
        DataError: The file is missing, ambiguous, unreadable or not of its format.
    """
    paths = _split_files(folder, split)
    if not paths:
        remedy = ", set data.split, or write val_samples: 0 for no scores" if split == "validation" else ""
        raise DataError(f"{folder} has no {split} file; name it {split} with {' or '.join(SUFFIXES)}{remedy}")
    official = folder.name if folder.name in OFFICIAL_FOLDERS.values() else None
    return read_all(paths, published=official is not None, header=OFFICIAL_HEADERS.get(official or ""))


def read_all(paths: Sequence[Path], *, published: bool = False, header: Sequence[str] | None = None) -> Table:
    """A file, or the shards of one put together in their order; see `read_table`.

    Raises:
        DataError: see `read_table`; or the shards differ in their columns.
    """
    first, *others = (read_table(path, published=published, header=header) for path in paths)
    for other in others:
        first = first.extended(other)
    return first


def find(folder: Path, stems: Sequence[str], suffixes: Sequence[str] = SUFFIXES) -> list[Path]:
    """The file that is called like one of `stems`, or all its shards in order; none if there is no such file.

    A folder that the package `datasets` saved counts as a file without a suffix.

    Shards are called as on the Hugging Face hub, `train-00000-of-00002.parquet`. Any file may be packed: `.gz`.

    Raises:
        DataError: there are several such files, or a shard is missing.
    """
    if not folder.is_dir():
        return []
    name = re.compile(
        f"({'|'.join(map(re.escape, stems))})(?:-([0-9]{{1,9}})-of-([0-9]{{1,9}})(?:-[0-9a-f]{{8,64}})?)?"
        f"({'|'.join(map(re.escape, suffixes))})((?:\\.gz)?)"
    )
    found: dict[tuple[int, int, str, int], list[tuple[int, Path]]] = defaultdict(list)
    for path in _entries(folder):
        match = name.fullmatch(path.name)
        if match is not None and path.is_file():
            stem, number, shards, suffix, packed = match.groups()
            place = (stems.index(stem), suffixes.index(suffix), packed, int(shards or 0))
            found[place].append((int(number or 0), path))
        elif path.name in stems and is_saved(path):
            found[stems.index(path.name), len(suffixes), "", 0].append((0, path))
    if len(found) > 1:
        names = ", ".join(files[0][1].name for _, files in sorted(found.items()))
        raise DataError(f"{folder} has several {stems[0]} files: {names}; keep one")
    for (_, _, _, shards), files in found.items():
        _require_all(folder, sorted(number for number, _ in files), shards)
        return [path for _, path in sorted(files)]
    return []


def _entries(folder: Path) -> list[Path]:
    try:
        return sorted(folder.iterdir())
    except OSError as error:
        raise DataError(f"{folder} cannot be read: {error.strerror or type(error).__name__}; mend it") from None


def _require_all(folder: Path, numbers: Sequence[int], shards: int) -> None:
    if not shards or (len(numbers) == shards and numbers in ([*range(shards)], [*range(1, shards + 1)])):
        return
    missing = next((number for number in range(shards) if number not in numbers), None)
    what = "some are there twice" if missing is None else f"number {missing:05d} is missing"
    raise DataError(f"{folder} has {len(numbers)} of {shards} shards: {what}; put all of them there, each once")
