"""A secret in a file: made once of the operating system's randomness, for one account alone, and kept."""

from __future__ import annotations

import os
from pathlib import Path

from common.privacy.noise import KEY_BYTES


def secret_at(path: Path) -> bytes:
    """The secret in a file, which may be damaged; at first use a new one, durable before this returns.

    Raises:
        OSError: the disk fails.
    """
    if not path.exists():
        aside = path.with_name(f".{path.name}.partial")
        aside.unlink(missing_ok=True)
        with os.fdopen(os.open(aside, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600), "wb") as file:
            file.write(os.urandom(KEY_BYTES))
            file.flush()
            os.fsync(file.fileno())
        aside.rename(path)
        sync_folder(path.parent)
    return path.read_bytes()


def sync_folder(folder: Path) -> None:
    """Make what was created or renamed in a folder durable.

    Raises:
        OSError: the disk fails.
    """
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
