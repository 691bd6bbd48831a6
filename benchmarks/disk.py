"""What durable writing costs on the disk of the run folder, whoever does it."""

from __future__ import annotations

import os
import sqlite3
from pathlib import Path

from benchmarks.spread import Spread, timed

ROW = "x" * 600


def durable_commit(folder: Path, repeats: int = 30) -> Spread:
    """Seconds of one small SQLite transaction, with the journal mode and the durability of a run's journal."""
    path = folder / "commit-probe.sqlite"
    database = sqlite3.connect(path, isolation_level=None)
    database.execute("PRAGMA journal_mode=WAL")
    database.execute("PRAGMA synchronous=FULL")
    database.execute("CREATE TABLE IF NOT EXISTS facts (key TEXT PRIMARY KEY, value TEXT NOT NULL)")

    def commit() -> None:
        database.execute("BEGIN IMMEDIATE")
        database.execute("INSERT OR REPLACE INTO facts VALUES ('round', ?)", (ROW,))
        database.execute("COMMIT")

    seconds = timed(commit, repeats, 3)[0]
    database.close()
    for left in folder.glob(f"{path.name}*"):
        left.unlink()
    return seconds


def durable_write(folder: Path, size: int, repeats: int = 5) -> Spread:
    """Seconds to write a new file of `size` bytes and to have the disk confirm it."""
    path, content = folder / "write-probe.bin", os.urandom(size)

    def write() -> None:
        with path.open("wb") as file:
            file.write(content)
            file.flush()
            os.fsync(file.fileno())

    seconds = timed(write, repeats)[0]
    path.unlink()
    return seconds
