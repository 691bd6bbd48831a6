"""Tables in files of every format: TSV, CSV, JSON and Parquet, packed with gzip or not."""

from __future__ import annotations

import csv
import gzip
import io
import json
import zlib
from collections.abc import Callable, Sequence
from pathlib import Path

from client.data.columns import Table, encodable
from client.data.sets import read_saved
from common.errors import DataError

SUFFIXES = (".tsv", ".csv", ".jsonl", ".json", ".parquet")
PACKED = ".gz"

Columns = dict[str, list[object]]


def read_table(path: Path, *, published: bool = False, header: Sequence[str] | None = None) -> Table:
    """The table in a file whose name says its format, or in a folder that the package `datasets` saved.

    A .tsv is taken literally, quotes included; a .csv follows its quotes; a .json holds one object per line, or a list
    of objects.

    Args:
        path: the file.
        published: it lies in the official folder of a public data set; see `Table`. Other formats than .tsv are not.
        header: the names of the columns where the official file has none.

    Raises:
        DataError: the file cannot be read, is not of its format, or names a column twice.
    """
    if path.is_dir():
        return read_saved(path)
    form = Path(path.name.removesuffix(PACKED)).suffix
    data = _bytes(path)
    if form == ".parquet":
        return Table(str(path), _parquet(path, data))
    # Undecodable bytes stay visible as surrogates: the check of the cells can then name row and column.
    text = data.decode("utf-8-sig", errors="surrogateescape")
    if not text.strip():
        raise DataError(f"{path} is empty; give at least one example")
    if form in (".jsonl", ".json"):
        return Table(str(path), _json(path, text, whole=form == ".json"))
    published = published and form == ".tsv"
    rows = _tsv_rows(text) if form == ".tsv" else _csv_rows(path, text)
    if header is None or not published or "sentence" in rows[0]:
        header = rows.pop(0)
    columns = _by_column(path, header, rows, published=published)
    notes = tuple(_quotes(path, columns)) if form == ".tsv" and not published else ()
    return Table(str(path), columns, published, notes)


def _bytes(path: Path) -> bytes:
    try:
        data = path.read_bytes()
        return gzip.decompress(data) if path.suffix == PACKED else data
    except (EOFError, zlib.error, gzip.BadGzipFile):
        raise DataError(f"{path} is not a whole gzip file; write it again") from None
    except OSError as error:
        raise DataError(f"{path} cannot be read: {error.strerror or type(error).__name__}; mend it") from None


def _lines(text: str) -> list[str]:
    """Lines that end with LF or CR LF, or, where there is none of these, with CR alone."""
    # Not splitlines(): sentences may hold other characters that Python takes for line ends.
    if "\n" not in text:
        return text.rstrip("\r").split("\r")
    return [line.removesuffix("\r") for line in text.rstrip("\r\n").split("\n")]


def _tsv_rows(text: str) -> list[list[str]]:
    return [line.split("\t") for line in _lines(text)]


def _csv_rows(path: Path, text: str) -> list[list[str]]:
    csv.field_size_limit(max(csv.field_size_limit(), len(text)))  # Python's own limit is 131,072 characters
    rows: list[list[str]] = []
    try:
        rows.extend(csv.reader(io.StringIO(text, newline=""), strict=True))
    except csv.Error as error:
        raise DataError(f"{path}, row {len(rows)}: not CSV ({error}); mend the quotes of this row") from None
    while rows and not rows[-1]:
        rows.pop()
    return rows


def _names(path: Path, header: Sequence[str]) -> list[str]:
    """The names of the columns, without blanks around them."""
    if not all(map(encodable, header)):
        raise DataError(f"{path}: the header is not UTF-8; convert the file to UTF-8")
    names = [name.strip() for name in header]
    for index, name in enumerate(names):
        if name in names[:index]:
            what = f"column {name!r} appears" if name else "a column without a name appears"
            raise DataError(f"{path}: {what} twice in the header; rename one")
    return names


def _by_column(path: Path, header: Sequence[str], rows: list[list[str]], *, published: bool) -> Columns:
    columns: Columns = {name: [] for name in _names(path, header)}
    cells = list(columns.values())
    for number, row in enumerate(rows, start=1):
        if len(row) != len(header):
            if not published:
                quotes = "" if path.name.endswith((".csv", ".csv.gz")) or '"' not in "".join(row) else _NO_SHELTER
                raise DataError(
                    f"{path}, row {number}: columns: {len(row)} where the header has {len(header)}; "
                    f"remove line breaks and separators from the texts or mend the row{quotes}"
                )
            row = [""] * len(header)
        for column, cell in zip(cells, row, strict=True):
            column.append(cell)
    return columns


_NO_SHELTER = " (a .tsv is taken literally, so quotes protect nothing; save such texts as .csv)"


def _quotes(path: Path, columns: Columns) -> list[str]:
    """Notes on columns that look as if a program had put quotes around their cells."""
    found = []
    for name, cells in columns.items():
        wrapped = [cell for cell in map(str, cells) if len(cell) > 1 and cell[0] == cell[-1] == '"']
        if wrapped and (len(wrapped) == len(cells) or any('""' in cell[1:-1] for cell in wrapped)):
            found.append(
                f"{path}, column {name!r}: {len(wrapped)} cells stand in quotes, and a .tsv is taken literally: "
                "they are part of the text; if that is not meant, save it without quotes or as .csv"
            )
    return found


def _json(path: Path, text: str, *, whole: bool) -> Columns:
    """The objects of a file by column: one per line, or where `whole` files may be, a list of them."""
    if whole and text.lstrip().startswith("["):
        items = _parsed(path, text, "a JSON list of objects, nor one object per line")
        rows = items if isinstance(items, list) else [items]
    else:
        rows = [_parsed(path, line, "", number) for number, line in enumerate(_lines(text.rstrip()), start=1)]
    objects: list[dict[str, object]] = []
    for number, row in enumerate(rows, start=1):
        if not isinstance(row, dict):
            raise DataError(f"{path}, row {number}: not a JSON object; write one object per line")
        objects.append(row)
    found = dict.fromkeys(name for row in objects for name in row)
    return dict(zip(_names(path, [*found]), ([row.get(name) for row in objects] for name in found), strict=True))


def _parsed(path: Path, text: str, wanted: str, number: int | None = None) -> object:
    where = f"{path}, row {number}" if number else str(path)
    try:
        return json.loads(text, object_pairs_hook=_once(where))
    except (ValueError, RecursionError):
        wanted = wanted or "a JSON object"
        raise DataError(f"{where}: not {wanted}; write one object per line") from None


def _once(where: str) -> Callable[[list[tuple[str, object]]], dict[str, object]]:
    def build(pairs: list[tuple[str, object]]) -> dict[str, object]:
        built = dict(pairs)
        if len(built) < len(pairs):
            names = [name for name, _ in pairs]
            twice = next(name for index, name in enumerate(names) if name in names[:index])
            raise DataError(f"{where}: column {twice!r} appears twice in an object; keep one")
        return built

    return build


def _parquet(path: Path, data: bytes) -> Columns:
    try:
        from pyarrow import ArrowException, BufferReader, parquet
    except ImportError:
        raise DataError(
            f"{path} needs the package pyarrow; install the extra 'parquet' or convert the file to TSV"
        ) from None
    try:
        # Not read_table(): folders such as part=1 on the way to the file would come as columns.
        table = parquet.ParquetFile(BufferReader(data)).read()
        return dict(zip(_names(path, table.column_names), (c.to_pylist() for c in table.columns), strict=True))
    except (ArrowException, UnicodeDecodeError):
        raise DataError(f"{path} is not a readable Parquet file; write it again") from None
