"""A journal lies on the disk twice, as tables and as a log. What damage took from one copy comes from the other."""

from __future__ import annotations

import sqlite3
from collections.abc import Iterable, Sequence
from contextlib import closing
from dataclasses import dataclass
from pathlib import Path

from common.errors import RunFolderError
from server.storage.files import sync_folder
from server.storage.log import Entry, Log, read_log, write_log
from server.storage.tables import create, damage, load, position, put, rows_in, text_of

LOG_SUFFIX = ".log"
_BESIDE = ("-wal", "-shm")
_MISSING, _EMPTY = "it is missing", "it is empty"


def log_of(journal: Path) -> Path:
    """Where the second copy of a journal lies."""
    return journal.with_suffix(LOG_SUFFIX)


@dataclass(frozen=True)
class Sound:
    """What both copies hold together, in memory, and what is wrong with them: `findings`, one line each.

    `rebuilt` says that the tables come from the log alone, `missing` are commits that only the log had, and `stale`
    says that the log does not tell the whole history of the tables any more.
    """

    db: sqlite3.Connection
    findings: tuple[str, ...] = ()
    rebuilt: bool = False
    missing: Sequence[tuple[Entry, str]] = ()
    stale: bool = False


def sound(path: Path) -> Sound:
    """Read a journal of which at least one copy is whole; nothing is written. An empty one where there is none.

    Raises:
        RunFolderError: both copies are damaged; it says how.
    """
    log = _log(log_of(path))  # read first: of a run that goes on, the tables are then not behind it
    db, wrong = _tables(path)
    if db is None:
        return _from_log(path, log, wrong)
    number, digest = position(db)
    if missing := log.after(number, digest):
        _apply(db, missing)
        says = f"{path} lacks the last {len(missing)} commits (its WAL is lost or damaged); they are taken from the log"
        return Sound(db, (says,), missing=missing, stale=log.torn or bool(log.damage))
    if log.end[0] > number:
        db.close()
        return _from_log(path, log, f"it ends with commit {number} of {log.end[0]}")
    damaged = bool(log.damage) and number > 0
    says = f"{log_of(path)}, the journal's second copy: {log.damage}; it is written anew from {path.name}"
    stale = damaged or log.torn or log.end != (number, digest)
    return Sound(db, (says,) if damaged else (), stale=stale)


def _log(path: Path) -> Log:
    try:
        return read_log(path)
    except (OSError, ValueError) as error:
        return Log(damage=f"it cannot be read: {error}")


def _tables(path: Path) -> tuple[sqlite3.Connection | None, str]:
    """The tables that a file holds, or None and what is wrong."""
    try:
        if not path.is_file() or not path.stat().st_size:
            return None, _EMPTY if path.is_file() else _MISSING
        db = load(path)
    except (sqlite3.Error, OSError) as error:
        return None, f"it cannot be read: {error}"
    wrong = damage(db) or ("" if position(db)[0] else _EMPTY)
    if wrong:
        db.close()
        return None, wrong
    return db, ""


def _from_log(path: Path, log: Log, wrong: str) -> Sound:
    fresh = sqlite3.connect(":memory:", isolation_level=None, check_same_thread=False)
    create(fresh)
    if not log.entries:
        if wrong not in (_MISSING, _EMPTY):
            raise RunFolderError(
                f"{path}: not a journal, or a damaged one ({wrong}); its second copy {log_of(path).name} does not help "
                f"({log.damage}); restore a backup or start a new run"
            )
        return Sound(fresh)
    try:
        _apply(fresh, log.entries)
    except (sqlite3.Error, ValueError) as error:
        raise RunFolderError(
            f"{log_of(path)}: of another version ({error}), and {path.name} does not help ({wrong})"
        ) from None
    lost = f", whose damaged part ({log.damage}) is lost" if log.damage else ""
    return Sound(fresh, (f"{path}: {wrong}; it is made again from {log_of(path).name}{lost}",), True, (), bool(lost))


def _apply(db: sqlite3.Connection, entries: Iterable[tuple[Entry, str]]) -> None:
    db.execute("BEGIN")
    for entry, digest in entries:
        put(db, ((row, text_of(row)) for row in entry.rows))
        db.execute("INSERT OR REPLACE INTO chain VALUES (?, ?)", (entry.number, digest))
    db.execute("COMMIT")


def mend(path: Path) -> tuple[str, ...]:
    """Make both copies of a journal whole and equal; what was wrong with them.

    Raises:
        RunFolderError: both are damaged, or the disk does not take it.
    """
    found = sound(path)
    try:
        if found.rebuilt:
            _replace(path, found.db)
        if found.missing or found.stale:
            with closing(sqlite3.connect(path, isolation_level=None)) as db:
                db.execute("PRAGMA synchronous=FULL")
                _apply(db, found.missing)
                if found.stale:
                    write_log(log_of(path), snapshot(db))
    except (sqlite3.Error, OSError) as error:
        raise RunFolderError(f"{path} is damaged and cannot be mended ({error}); make room, then try again") from None
    finally:
        found.db.close()
    return found.findings


def snapshot(db: sqlite3.Connection) -> Entry:
    """Everything that the tables hold as one more commit, with which a log can begin anew.

    The tables must be committed before that log is written: one that is behind them is only written again.
    """
    number, digest = position(db)
    entry = Entry.of(number + 1, digest, (text_of(row) for row in rows_in(db)))
    db.execute("INSERT INTO chain VALUES (?, ?)", (entry.number, entry.digest))
    return entry


def write_out(db: sqlite3.Connection, path: Path) -> None:
    """Write a journal in memory to a new file, durably.

    Raises:
        sqlite3.Error: the disk does not take it.
    """
    with closing(sqlite3.connect(path)) as file:
        db.backup(file)


def _replace(path: Path, db: sqlite3.Connection) -> None:
    """Put a journal in memory into the place of a damaged file, which stays beside it under another name."""
    fresh = path.with_name(f".{path.name}.partial")
    fresh.unlink(missing_ok=True)
    write_out(db, fresh)
    if path.exists():
        path.rename(path.with_name(f"{path.stem}.damaged"))
    for suffix in _BESIDE:  # a WAL of the old file must not meet the new one
        path.with_name(path.name + suffix).unlink(missing_ok=True)
    fresh.rename(path)
    sync_folder(path.parent)
