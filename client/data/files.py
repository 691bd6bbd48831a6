"""Tables from `FOLDER/<task>/{train,validation}.{tsv,csv,jsonl,parquet}` or the official GLUE folders."""

from __future__ import annotations

import csv
import io
import json
from collections.abc import Sequence
from pathlib import Path

from client.data.columns import Table, encodable
from common.errors import DataError

SPLIT_NAMES = {
    "train": ("train",),
    "validation": ("validation", "valid", "dev", "validation_matched", "dev_matched"),
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


def task_folder(folder: Path, task: str) -> Path:
    """The folder of one task's files: named like the task, else the task's official GLUE folder.

    Raises:
        DataError: There is none.
    """
    if not folder.is_dir():
        raise DataError(f"data folder {folder} does not exist; give the folder that holds {task}/train.tsv")
    # Compared as listed, because some file systems would find CoLA under the name cola.
    listed = {entry.name for entry in folder.iterdir() if entry.is_dir()}
    wanted = [task] + ([OFFICIAL_FOLDERS[task]] if task in OFFICIAL_FOLDERS else [])
    for name in wanted:
        if name in listed:
            return folder / name
    raise DataError(f"data folder {folder} has no folder {' or '.join(wanted)}; put the files of {task} there")


def read_split(folder: Path, split: str) -> Table:
    """One split from the folder of its task.

    Raises:
        DataError: The file is missing, ambiguous, unreadable or not of its format.
    """
    path = _find(folder, split)
    try:
        if path.suffix == ".parquet":
            return Table(str(path), _read_parquet(path))
        # Undecodable bytes stay visible as surrogates: the check of the cells can then name row and column.
        text = path.read_bytes().decode("utf-8-sig", errors="surrogateescape")
    except OSError as error:
        raise DataError(f"{path} cannot be read: {error.strerror or type(error).__name__}; mend it") from None
    if not text.strip():
        raise DataError(f"{path} is empty; give at least one example")
    if path.suffix == ".jsonl":
        return Table(str(path), _read_jsonl(path, text))
    rows = _tsv_rows(text) if path.suffix == ".tsv" else _csv_rows(path, text)
    published = path.suffix == ".tsv" and folder.name in OFFICIAL_FOLDERS.values()
    header: Sequence[str] | None = OFFICIAL_HEADERS.get(folder.name) if published else None
    if header is None or "sentence" in rows[0]:
        header = rows.pop(0)
    columns = _by_column(path, header, rows, published=published)
    return Table(str(path), columns, published=published)


def _find(folder: Path, split: str) -> Path:
    names = [f"{name}{suffix}" for name in SPLIT_NAMES[split] for suffix in (".tsv", ".csv", ".jsonl", ".parquet")]
    found = [name for name in names if (folder / name).is_file()]
    if not found:
        raise DataError(f"{folder} has no {split} file; name it {split} with .tsv, .csv, .jsonl or .parquet")
    if len(found) > 1:
        raise DataError(f"{folder} has several {split} files: {', '.join(found)}; keep one")
    return folder / found[0]


def _tsv_rows(text: str) -> list[list[str]]:
    # Not splitlines(): sentences may hold other characters that Python takes for line ends.
    return [line.removesuffix("\r").split("\t") for line in text.rstrip("\r\n").split("\n")]


def _csv_rows(path: Path, text: str) -> list[list[str]]:
    rows: list[list[str]] = []
    try:
        rows.extend(csv.reader(io.StringIO(text, newline=""), strict=True))
    except csv.Error as error:
        raise DataError(f"{path}, row {len(rows)}: not CSV ({error}); mend the quotes of this row") from None
    while rows and not rows[-1]:
        rows.pop()
    return rows


def _by_column(path: Path, header: Sequence[str], rows: list[list[str]], *, published: bool) -> dict[str, list[object]]:
    if not all(map(encodable, header)):
        raise DataError(f"{path}: the header is not UTF-8; convert the file to UTF-8")
    columns: dict[str, list[object]] = {name: [] for name in header}
    if len(columns) < len(header):
        twice = next(name for index, name in enumerate(header) if name in header[:index])
        raise DataError(f"{path}: column {twice!r} appears twice in the header; rename one")
    cells = list(columns.values())
    for number, row in enumerate(rows, start=1):
        if len(row) != len(header):
            if not published:
                raise DataError(
                    f"{path}, row {number}: columns: {len(row)} where the header has {len(header)}; "
                    "remove line breaks and separators from the texts or mend the row"
                )
            row = [""] * len(header)
        for column, cell in zip(cells, row, strict=True):
            column.append(cell)
    return columns


def _read_jsonl(path: Path, text: str) -> dict[str, list[object]]:
    rows = []
    for number, line in enumerate(text.rstrip().split("\n"), start=1):
        try:
            row = json.loads(line)
        except (ValueError, RecursionError):
            row = None
        if not isinstance(row, dict):
            raise DataError(f"{path}, row {number}: not a JSON object; write one object per line")
        rows.append(row)
    names = dict.fromkeys(name for row in rows for name in row)
    return {name: [row.get(name) for row in rows] for name in names}


def _read_parquet(path: Path) -> dict[str, list[object]]:
    try:
        from pyarrow import ArrowException, parquet
    except ImportError:
        raise DataError(
            f"{path} needs the package pyarrow; install the extra 'parquet' or convert the file to TSV"
        ) from None
    try:
        columns: dict[str, list[object]] = parquet.read_table(path).to_pydict()
    except (ArrowException, UnicodeDecodeError):
        raise DataError(f"{path} is not a readable Parquet file; write it again") from None
    return columns
