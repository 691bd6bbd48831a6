"""Files that are whole or absent, and the digests by which damage at rest is noticed."""

from __future__ import annotations

import errno
import logging
import os
import time
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import TypeVar

import xxhash

from common.errors import RunFolderError

log = logging.getLogger("fedmtl.server")

T = TypeVar("T")

OUT_OF_FILES = frozenset({errno.EMFILE, errno.ENFILE})
FILES_TRIES = 60
FILES_PAUSE_SECONDS = 1.0
"""Too many open files pass: connections end. So that is tried again for a minute."""
_READ_BYTES = 1 << 20


def digest_of(*chunks: bytes | memoryview) -> str:
    """xxh3-128 of bytes. It finds damage at the speed of memory; it is no defence against forgery."""
    content = xxhash.xxh3_128()
    for chunk in chunks:
        content.update(chunk)
    return content.hexdigest()


def digest_of_file(path: Path) -> str:
    """The digest of a file's content, read in chunks.

    Raises:
        OSError: it cannot be read.
    """
    content = xxhash.xxh3_128()
    with path.open("rb") as file:
        while chunk := file.read(_READ_BYTES):
            content.update(chunk)
    return content.hexdigest()


def write_whole(path: Path, parts: Iterable[bytes | memoryview], durable: bool = True) -> str:
    """Write a file whole or not at all, through a temporary name; the digest of its content.

    Args:
        path: where it lies; its folder is made.
        parts: its content, chunk by chunk; they are walked through again where too many files are open.
        durable: sync file and folder before returning. Without, a loss of power may leave a torn file.

    Raises:
        RunFolderError: the disk does not take it.
    """
    try:
        return patiently(lambda: _write(path, parts, durable), path)
    except OSError as error:
        raise unwritable(path, error) from None


def _write(path: Path, parts: Iterable[bytes | memoryview], durable: bool) -> str:
    path.parent.mkdir(exist_ok=True)
    # Second copies are written in a thread of their own, perhaps while another one writes the same file for good.
    temporary = path.with_name(f".{path.stem}.partial" if durable else f".{path.stem}.copy.partial")
    content = xxhash.xxh3_128()
    with temporary.open("wb") as file:
        for part in parts:
            file.write(part)
            content.update(part)
        file.flush()
        if durable:
            os.fsync(file.fileno())
    temporary.rename(path)
    if durable:
        sync_folder(path.parent)
    return content.hexdigest()


def patiently(work: Callable[[], T], path: Path) -> T:
    """What `work` on a file gives, tried again as long as too many files are open, for a minute.

    Raises:
        OSError: it still failed, or for another reason.
    """
    for attempt in range(1, FILES_TRIES + 1):
        try:
            return work()
        except OSError as error:
            if error.errno not in OUT_OF_FILES or attempt == FILES_TRIES:
                raise
            if attempt == 1:
                log.warning("%s: too many open files (see ulimit -n); trying again every second", path)
            time.sleep(FILES_PAUSE_SECONDS)
    raise AssertionError("unreachable")


def unwritable(path: Path, error: OSError) -> RunFolderError:
    """One line about a file that cannot be written, with the remedy."""
    if error.errno in OUT_OF_FILES:
        return RunFolderError(f"{path} cannot be written (too many open files); raise ulimit -n, then use --resume")
    if error.errno in (errno.ENOENT, errno.ENOTDIR):
        return RunFolderError(
            f"{path} cannot be written: its folder is gone; restore the run folder or start a new run"
        )
    remedy = "make the folder writable" if error.errno in (errno.EACCES, errno.EPERM, errno.EROFS) else "free space"
    return RunFolderError(f"{path} cannot be written ({error.strerror}); {remedy}, then go on with --resume")


def sync_folder(folder: Path) -> None:
    """Make renames in a folder durable."""
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
