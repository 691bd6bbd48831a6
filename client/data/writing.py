"""Tables as files, in the formats that are read."""

from __future__ import annotations

import csv
import io
import json
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

import numpy as np

from common.errors import DataError, foreign_errors

Columns = Mapping[str, Sequence[object]]


def write_columns(path: Path, columns: Columns) -> None:
    """Write columns of equal length to a new file whose name says its format: whole, or not at all.

    Raises:
        DataError: the format is not known or cannot hold a cell, the file exists, or the disk does not take it.
    """
    write = WRITERS.get(path.suffix)
    if write is None:
        raise DataError(f"--output: {path} is of no known format; use one of {', '.join(WRITERS)}")
    if path.exists():
        raise DataError(f"--output: {path} exists; name a new file")
    content = write(path, columns)
    part = path.with_name(path.name + ".part")
    try:
        part.write_bytes(content)
        part.replace(path)
    except OSError as error:
        part.unlink(missing_ok=True)
        raise DataError(f"--output: {path} cannot be written: {error.strerror}; choose another place") from None


def _csv(path: Path, columns: Columns) -> bytes:
    found = io.StringIO(newline="")
    writer = csv.writer(found, lineterminator="\n")
    writer.writerow(columns)
    writer.writerows(zip(*columns.values(), strict=True))
    return found.getvalue().encode()


def _tsv(path: Path, columns: Columns) -> bytes:
    rows = [[*columns], *([("" if c is None else str(c)) for c in row] for row in zip(*columns.values(), strict=True))]
    if any(mark in cell for row in rows for cell in row for mark in "\t\n\r"):
        raise DataError(
            f"--output: {path}: a cell holds a tab or a line break, which a .tsv cannot; write .csv or .jsonl"
        )
    return "".join("\t".join(row) + "\n" for row in rows).encode()


def _objects(columns: Columns) -> list[dict[str, object]]:
    return [dict(zip(columns, row, strict=True)) for row in zip(*columns.values(), strict=True)]


def _jsonl(path: Path, columns: Columns) -> bytes:
    return "".join(json.dumps(row, ensure_ascii=False) + "\n" for row in _objects(columns)).encode()


def _json(path: Path, columns: Columns) -> bytes:
    return (json.dumps(_objects(columns), ensure_ascii=False, indent=1) + "\n").encode()


def _parquet(path: Path, columns: Columns) -> bytes:
    try:
        import pyarrow
        from pyarrow import parquet
    except ImportError:
        raise DataError(f"--output: {path} needs pyarrow; install the extra 'parquet' or write .csv") from None
    found = io.BytesIO()
    with foreign_errors(lambda error: DataError(f"--output: {path}: {str(error)[:200]}; write .jsonl")):
        parquet.write_table(pyarrow.table({name: [*cells] for name, cells in columns.items()}), found)
    return found.getvalue()


def _npz(path: Path, columns: Columns) -> bytes:
    found, arrays = io.BytesIO(), {name: np.asarray(cells) for name, cells in columns.items()}
    for name, cells in arrays.items():
        if cells.dtype == object:
            raise DataError(f"--output: {path}: column '{name}' has cells of several types; write .csv or .jsonl")
    np.savez(found, allow_pickle=False, **arrays)
    return found.getvalue()


WRITERS: Mapping[str, Callable[[Path, Columns], bytes]] = {
    ".csv": _csv,
    ".tsv": _tsv,
    ".jsonl": _jsonl,
    ".json": _json,
    ".parquet": _parquet,
    ".npz": _npz,
}
