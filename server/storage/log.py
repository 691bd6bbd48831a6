"""The journal's second copy: `journal.log`, every commit as one line, each with a digest over the one before it.

A line is `<digest> <number> <digest of the commit before> <rows as JSON>`. What one copy lost, the other has.
"""

from __future__ import annotations

import json
import os
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path

from server.storage.files import digest_of, unwritable, write_whole
from server.storage.tables import Row


@dataclass(frozen=True)
class Entry:
    """One commit. `text` holds its rows, as a JSON list of lists."""

    number: int
    previous: str
    text: str

    @classmethod
    def of(cls, number: int, previous: str, rows: Iterable[str]) -> Entry:
        """The entry of a commit whose rows are given as texts."""
        return cls(number, previous, f"[{','.join(rows)}]")

    @property
    def body(self) -> str:
        """What the digest is made of."""
        return f"{self.number} {self.previous or '-'} {self.text}"

    @property
    def digest(self) -> str:
        """The digest of this commit and, through the one before it, of the whole history."""
        return digest_of(self.body.encode())

    @property
    def rows(self) -> list[Row]:
        """The rows that the commit wrote."""
        return [(table, tuple(cells)) for table, *cells in json.loads(self.text)]


@dataclass(frozen=True)
class Log:
    """What a log holds up to its first damage, which `damage` describes.

    A `torn` last line is none: that is what a process leaves that dies while it writes.
    """

    entries: Sequence[tuple[Entry, str]] = ()
    damage: str = ""
    torn: bool = False

    @property
    def end(self) -> tuple[int, str]:
        """Number and digest of the last commit in it; (0, "") where there is none."""
        return (self.entries[-1][0].number, self.entries[-1][1]) if self.entries else (0, "")

    def after(self, number: int, digest: str) -> list[tuple[Entry, str]]:
        """The commits that follow on a journal that stands at this one."""
        rest = [(entry, found) for entry, found in self.entries if entry.number > number]
        return rest if rest and rest[0][0].number == number + 1 and rest[0][0].previous == digest else []


def read_log(path: Path) -> Log:
    """Read a log; one that does not exist is empty.

    Raises:
        OSError: it cannot be read.
    """
    try:
        data = path.read_bytes()
    except FileNotFoundError:
        return Log(damage="it is missing")
    entries: list[tuple[Entry, str]] = []
    lines = data.split(b"\n")
    whole, tail = lines[:-1], lines[-1]
    for place, line in enumerate(whole, start=1):
        found = _parse(line)
        before = entries[-1] if entries else None
        if found is None or (before is not None and (found[0].number, found[0].previous) != _next(before)):
            return Log(entries, f"line {place} does not fit its digest")
        entries.append(found)
    return Log(entries, "" if entries else "it holds no whole line", bool(tail))


def _next(before: tuple[Entry, str]) -> tuple[int, str]:
    return before[0].number + 1, before[1]


def _parse(line: bytes) -> tuple[Entry, str] | None:
    digest, _, body = line.partition(b" ")
    if digest_of(body).encode() != digest:
        return None
    number, previous, text = body.decode().split(" ", 2)
    return Entry(int(number), "" if previous == "-" else previous, text), digest.decode()


class LogWriter:
    """Appends commits. `sync` makes them durable; until then they survive the process, not the machine.

    Raises:
        RunFolderError: the file cannot be opened or written.
    """

    def __init__(self, path: Path) -> None:
        self._path = path
        try:
            self._file = path.open("ab", buffering=0)
        except OSError as error:
            raise unwritable(path, error) from None

    def append(self, entry: Entry, digest: str) -> None:
        """Write one line. What a full disk cut short is a torn last line, which readers leave out."""
        line = memoryview(f"{digest} {entry.body}\n".encode())
        try:
            while line:
                line = line[self._file.write(line) :]
        except OSError as error:
            raise unwritable(self._path, error) from None

    def sync(self) -> None:
        """Make what was appended durable."""
        os.fsync(self._file.fileno())

    def close(self) -> None:
        """Close the file."""
        self._file.close()


def write_log(path: Path, entry: Entry) -> None:
    """Begin a log anew with one entry that holds everything.

    Raises:
        RunFolderError: the file cannot be written.
    """
    write_whole(path, [f"{entry.digest} {entry.body}\n".encode()])
