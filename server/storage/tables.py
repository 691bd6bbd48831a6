"""The tables of a journal: rows go in and out without regard to what they mean, and each carries its digest."""

from __future__ import annotations

import json
import sqlite3
from collections.abc import Iterable, Iterator, Mapping
from contextlib import closing
from dataclasses import dataclass
from pathlib import Path

from server.storage.files import digest_of

FORMAT = 2
"""`PRAGMA user_version` of the file; a change of the tables changes it."""

Cells = tuple[object, ...]
Row = tuple[str, Cells]
"""A table's name and the values of its columns: numbers, strings and None."""


@dataclass(frozen=True)
class TableLayout:
    """Columns with their types, as SQL; the first `key` of them name a row."""

    columns: str
    key: int = 1


TABLES: Mapping[str, TableLayout] = {
    "run": TableLayout("key TEXT, value TEXT"),
    "files": TableLayout("name TEXT, digests TEXT, content TEXT"),
    "clients": TableLayout(
        "client_id TEXT, tasks TEXT, examples TEXT, capabilities TEXT, committed TEXT, left_run INTEGER, tally TEXT"
    ),
    "rounds": TableLayout(
        "kind TEXT, number INTEGER, attempt INTEGER, version INTEGER, closed INTEGER, published INTEGER, totals TEXT, "
        "variates TEXT",
        3,
    ),
    "orders": TableLayout(
        "order_id TEXT, kind TEXT, number INTEGER, attempt INTEGER, client_id TEXT, tasks TEXT, scopes TEXT, "
        "state TEXT, digest TEXT, weights TEXT, results TEXT, nbytes INTEGER, seconds REAL, note TEXT, codec TEXT, "
        "content TEXT"
    ),
    "task_cosines": TableLayout("number INTEGER, scope TEXT, tasks TEXT, cosines TEXT", 2),
    "relations": TableLayout("number INTEGER, template TEXT, mu TEXT, state TEXT, note TEXT", 2),
    "duals": TableLayout("number INTEGER, relationship TEXT, blocks TEXT"),
    "certificates": TableLayout("number INTEGER, primal REAL, dual REAL, silent INTEGER"),
    "guarded": TableLayout(
        "number INTEGER, task TEXT, final INTEGER, received REAL, isolated REAL, behind INTEGER, fell_back INTEGER, "
        "gap REAL",
        3,
    ),
}
"""Everything that counts. A column `number` is a round's: going back to an earlier version drops what is later.

`files` holds what files of the run folder may contain: their digests, and a copy of the small ones. Two more tables
hold no such rows: `models`, whose digests are in `files`, and `chain`, the digest of every commit.
"""


def create(db: sqlite3.Connection) -> None:
    """Make the tables of a new journal, all or none."""
    statements = "".join(f"CREATE TABLE {name} ({_columns(table)});" for name, table in TABLES.items())
    db.executescript(
        f"BEGIN; {statements}"
        "CREATE TABLE models (version INTEGER PRIMARY KEY, data BLOB NOT NULL);"
        "CREATE TABLE chain (number INTEGER PRIMARY KEY, digest TEXT NOT NULL);"
        f"PRAGMA user_version = {FORMAT}; COMMIT;"
    )


def _columns(table: TableLayout) -> str:
    return f"{table.columns}, row_digest TEXT NOT NULL, PRIMARY KEY ({', '.join(_names(table)[: table.key])})"


def _names(table: TableLayout) -> list[str]:
    return [column.split()[0] for column in table.columns.split(",")]


def text_of(row: Row) -> str:
    """A row as JSON: what its digest and the chain are made of. A gap of the guard may be infinite."""
    table, cells = row
    return json.dumps([table, *cells], separators=(",", ":"))


def put(db: sqlite3.Connection, rows: Iterable[tuple[Row, str]]) -> None:
    """Insert or replace rows, which come with their texts. The caller has a transaction open."""
    found: dict[str, list[Cells]] = {}
    for (table, cells), text in rows:
        found.setdefault(table, []).append((*cells, digest_of(text.encode())))
    for table, filled in found.items():
        marks = ",".join("?" * len(filled[0]))
        db.executemany(f"INSERT OR REPLACE INTO {table} VALUES ({marks})", filled)


def rows_in(db: sqlite3.Connection) -> Iterator[Row]:
    """All rows, as they were inserted."""
    for name, table in TABLES.items():
        for cells in db.execute(f"SELECT {', '.join(_names(table))} FROM {name} ORDER BY rowid"):
            yield name, cells


def forget_after(db: sqlite3.Connection, number: int) -> None:
    """Drop what belongs to rounds after this one. The caller has a transaction open."""
    for name, table in TABLES.items():
        if "number" in _names(table):
            db.execute(f"DELETE FROM {name} WHERE number > ?", (number,))


def position(db: sqlite3.Connection) -> tuple[int, str]:
    """The number of the last commit and its digest; (0, "") before the first."""
    found = db.execute("SELECT number, digest FROM chain ORDER BY number DESC LIMIT 1").fetchone()
    return (0, "") if found is None else (int(found[0]), str(found[1]))


def load(path: Path) -> sqlite3.Connection:
    """A journal in memory, as a file holds it; the file is only read.

    Raises:
        sqlite3.Error: it cannot be read.
    """
    memory = sqlite3.connect(":memory:", isolation_level=None, check_same_thread=False)
    try:
        _copy(f"{path.absolute().as_uri()}?mode=ro", memory)
    except sqlite3.OperationalError as error:
        if error.sqlite_errorname not in ("SQLITE_CANTOPEN", "SQLITE_READONLY", "SQLITE_READONLY_DIRECTORY"):
            raise
        # Where nobody may write there cannot be the index of a WAL either.
        _copy(f"{path.absolute().as_uri()}?mode=ro&immutable=1", memory)
    return memory


def _copy(uri: str, memory: sqlite3.Connection) -> None:
    with closing(sqlite3.connect(uri, uri=True)) as source:
        source.backup(memory)


def damage(db: sqlite3.Connection) -> str:
    """What is wrong with a journal that was loaded, in a few words; empty where nothing is."""
    try:
        (found,) = db.execute("PRAGMA user_version").fetchone()
        if found != FORMAT:
            return f"its format is {found}, this version reads {FORMAT}"
        (answer,) = db.execute("PRAGMA integrity_check(1)").fetchone()
        if answer != "ok":
            return f"SQLite finds it damaged: {' '.join(str(answer).split())}"
        if _layout(db) != _expected_layout():
            return "its tables are not what they should be"
        for name, table in TABLES.items():
            for *cells, digest in db.execute(f"SELECT {', '.join(_names(table))}, row_digest FROM {name}"):
                if digest_of(text_of((name, tuple(cells))).encode()) != digest:
                    return f"a row of its table {name} does not fit its digest"
        numbers = [number for (number,) in db.execute("SELECT number FROM chain ORDER BY number")]
        if numbers and numbers != list(range(numbers[0], numbers[0] + len(numbers))):
            return "its chain of commits has a gap"
    except (sqlite3.Error, TypeError, ValueError) as error:  # bytes instead of text, a NaN, broken UTF-8
        return f"it cannot be read: {error}"
    return ""


def _layout(db: sqlite3.Connection) -> set[tuple[object, ...]]:
    return set(db.execute("SELECT type, name, tbl_name, sql FROM sqlite_master"))


def _expected_layout() -> set[tuple[object, ...]]:
    with closing(sqlite3.connect(":memory:", isolation_level=None)) as fresh:
        create(fresh)
        return _layout(fresh)
