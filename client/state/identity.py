"""Who a client is: a stable id, remembered on disk, and a lock so that one id is one process."""

from __future__ import annotations

import fcntl
import secrets
from collections.abc import Sequence
from pathlib import Path
from types import TracebackType
from typing import Self

from common.errors import ConfigError
from common.names import RULE, is_id
from common.wire.limits import NAME_CHARS


class Identity:
    """A client id with its folder, held exclusively while this process runs."""

    def __init__(self, client_id: str, folder: Path) -> None:
        self.client_id = client_id
        self.folder = folder
        try:
            folder.mkdir(parents=True, exist_ok=True)
            self._lock = (folder / "lock").open("w")
        except OSError as error:
            raise ConfigError(
                f"client.state_dir: '{folder}' cannot be used ({error.strerror}); choose another --state_dir"
            ) from None
        try:
            fcntl.flock(self._lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError:
            self._lock.close()
            raise ConfigError(
                f"client_id: '{client_id}' is in use by another process here ({folder}); "
                "give this one its own --client_id or --state_dir"
            ) from None

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._lock.close()


def folder_of(state_dir: Path, client_id: str) -> Path:
    """Where a client of this id keeps its state.

    Raises:
        ConfigError: the id is malformed.
    """
    if not is_id(client_id, NAME_CHARS):
        raise ConfigError(f"client_id: '{client_id}' must be 1 to {NAME_CHARS} characters: {RULE}")
    return state_dir / client_id


def claim(state_dir: Path, client_id: str | None, tasks: Sequence[str]) -> Identity:
    """Take the id that was asked for, or the first free one remembered for these tasks, or a new one.

    Raises:
        ConfigError: the id is malformed or in use.
    """
    if client_id is not None:
        return Identity(client_id, folder_of(state_dir, client_id))
    prefix = "-".join(sorted(tasks))[:48]
    for folder in sorted(state_dir.glob(f"{prefix}-auto-*")):
        try:
            return Identity(folder.name, folder)
        except ConfigError:
            continue
    name = f"{prefix}-auto-{secrets.token_hex(4)}"
    return Identity(name, state_dir / name)
