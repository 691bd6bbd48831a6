"""Standard output and standard error: decoration, whose end is never the end of a run."""

from __future__ import annotations

import errno
import io
import logging
import os
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING, TextIO

from common.plain_text import plain

if TYPE_CHECKING:
    from rich.console import Console

log = logging.getLogger("fedmtl")

_FOR_GOOD = frozenset({errno.EPIPE, errno.EIO, errno.EBADF})
"""Its reader has ended, the terminal is gone, it was closed."""


class Output(io.TextIOBase):
    """A standard stream that takes every text: what cannot be written is dropped, and the log says so once.

    Nothing is buffered here or below, so that nothing is left for the interpreter to write when it ends.
    """

    def __init__(self, stream: TextIO | None, name: str) -> None:
        self._stream = stream
        self._name = name
        self._raw = _unbuffered(stream)
        self._gone = stream is None
        self._lost = ""

    @property
    def encoding(self) -> str:  # type: ignore[override]
        """That of the stream; what it cannot hold is written as an escape."""
        return getattr(self._stream, "encoding", None) or "utf-8"

    def isatty(self) -> bool:
        """Whether a person looks at it."""
        return self._stream is not None and not self._gone and self._stream.isatty()

    def fileno(self) -> int:
        """The descriptor below, if there is one."""
        if self._raw is None:
            raise io.UnsupportedOperation("fileno")
        return self._raw.fileno()

    def writable(self) -> bool:
        """Always."""
        return True

    def write(self, text: str) -> int:
        """Write or drop."""
        if not self._gone:
            try:
                self._put(text)
            except (OSError, ValueError) as error:
                self._failed(error)
            else:
                self._succeeded()
        return len(text)

    def _put(self, text: str) -> None:
        data = text.encode(self.encoding, "backslashreplace")
        if self._raw is None:
            assert self._stream is not None
            self._stream.write(data.decode(self.encoding))
            self._stream.flush()
            return
        left = memoryview(data)
        while left:
            written = self._raw.write(left)
            if written is None:
                raise BlockingIOError(errno.EAGAIN, "not ready")
            left = left[written:]

    def _failed(self, error: OSError | ValueError) -> None:
        why = getattr(error, "strerror", None) or str(error)
        self._gone = not isinstance(error, OSError) or error.errno in _FOR_GOOD
        first, self._lost = not self._lost, why
        if first:  # set before: the note itself may have to go this way
            log.warning("%s cannot be written (%s); what belongs there is not shown, the rest goes on", self._name, why)

    def _succeeded(self) -> None:
        why, self._lost = self._lost, ""
        if why:
            log.warning("%s could not be written for a while (%s); lines are missing", self._name, why)


def _unbuffered(stream: TextIO | None) -> io.FileIO | None:
    """The descriptor below a stream; None for one in memory."""
    try:
        return None if stream is None else io.FileIO(stream.fileno(), "wb", closefd=False)
    except (OSError, ValueError):
        return None


@contextmanager
def standard_streams() -> Iterator[None]:
    """Put an `Output` in place of standard output and standard error."""
    for number in range(3):  # a file that took a missing one's number would get what is shown
        try:
            os.fstat(number)
        except OSError:
            os.open(os.devnull, os.O_RDWR)
    before = sys.stdout, sys.stderr
    sys.stdout, sys.stderr = Output(sys.stdout, "standard output"), Output(sys.stderr, "standard error")
    try:
        yield
    finally:
        sys.stdout, sys.stderr = before


def say(*lines: str) -> None:
    """Show lines, as plain text."""
    for line in lines:
        print(plain(line))


def complain(line: str) -> None:
    """Show a line on standard error, as plain text."""
    print(plain(line), file=sys.stderr)


def console() -> Console:
    """Standard output; wide enough for the tables where it is a file."""
    from rich.console import Console

    return Console(width=None if sys.stdout.isatty() else 116, markup=False, emoji=False)
