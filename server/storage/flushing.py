"""What follows on a commit while the run goes on: the log is synced, and the tables' own file takes up the WAL."""

from __future__ import annotations

import logging
import sqlite3
import time
from collections import deque
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from threading import Event, Lock

from common.errors import RunFolderError

log = logging.getLogger("fedmtl.server")

WAL_BYTES = 4 << 20
"""From this size on the WAL is begun anew."""


SHARE = 1 / 50
"""So much of the time it may take: the second copies of rounds shorter than 50 times its work are made together."""


class Flusher:
    """A thread that does this after commits. It never makes one wait: those that come meanwhile are settled together.

    `sync` makes the log durable; of the work that commits bring, that of the last `versions` is done.
    """

    def __init__(self, path: Path, sync: Callable[[], None], versions: int) -> None:
        self._path = path
        self._sync = sync
        self._thread = ThreadPoolExecutor(1, "settling")
        self._lock = Lock()
        self._asked = False
        self._rest_until = 0.0
        self._closing = Event()
        self._work: deque[Callable[[], None]] = deque(maxlen=versions)
        self._connections: tuple[sqlite3.Connection, sqlite3.Connection] | None = None

    def ask(self, work: Callable[[], None] | None) -> None:
        """Settle what is committed now, and do `work` before."""
        with self._lock:
            if work is not None:
                self._work.append(work)
            if self._asked:
                return
            self._asked = True
        self._thread.submit(self._flush)

    def close(self) -> None:
        """Return when everything is done."""
        self._closing.set()
        self._thread.shutdown()
        for connection in self._connections or ():
            connection.close()

    def _flush(self) -> None:
        self._closing.wait(max(self._rest_until - time.monotonic(), 0.0))
        began = time.monotonic()
        with self._lock:
            tasks, self._asked = [*self._work], False
            self._work.clear()
        try:
            for work in tasks:
                work()
            self._sync()
            self._checkpoint()
        except (OSError, sqlite3.Error, RunFolderError) as error:
            log.warning("the journal's second copies are behind (%s); the run goes on", error)
        now = time.monotonic()
        self._rest_until = now + (now - began) / SHARE

    def _checkpoint(self) -> None:
        """Copy the WAL's pages into the journal's file, which then holds the last round without its WAL too.

        A reader stands at the end of the WAL meanwhile and after: were there none, the next commit would begin the WAL
        anew, which costs it a sync of its own.
        """
        if self._connections is None:
            first, second = (sqlite3.connect(self._path, isolation_level=None, check_same_thread=False) for _ in "ab")
            self._connections = first, second
        writer, reader = self._connections
        if reader.in_transaction:
            reader.execute("ROLLBACK")
        if self._path.with_name(f"{self._path.name}-wal").stat().st_size < WAL_BYTES:
            reader.execute("BEGIN")
            reader.execute("SELECT number FROM chain LIMIT 1").fetchall()
        writer.execute("PRAGMA wal_checkpoint(PASSIVE)").fetchall()
