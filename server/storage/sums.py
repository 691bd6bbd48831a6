"""Where the sums of a round survive a crash between the last answer and the shares that open them."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Protocol

import numpy as np
from numpy.typing import NDArray

from common.errors import RunFolderError
from server.storage.files import digest_of, patiently, write_whole

SUMS = "sums"
"""The folder of sums in a run folder."""
_SUFFIX = ".bin"
_DIGEST_CHARS = 32


class SumStore(Protocol):
    """Where sums survive a crash."""

    def write(self, name: str, parts: Sequence[bytes | memoryview]) -> None:
        """Make sums durable under a name before returning.

        Raises:
            RunFolderError: the disk does not take them.
        """
        ...

    def read(self, name: str) -> NDArray[np.uint8]:
        """The bytes of sums, uint8, in memory of their own.

        Raises:
            RunFolderError: they are missing or damaged.
        """
        ...

    def forget(self) -> None:
        """Forget all sums: no round needs them any more."""
        ...


class SumFiles:
    """Files `sums/<name>.bin` in a run folder: the digest of the rest comes first."""

    def __init__(self, root: Path) -> None:
        self._folder = root / SUMS

    def path(self, name: str) -> Path:
        """Where sums lie."""
        return self._folder / f"{name}{_SUFFIX}"

    def write(self, name: str, parts: Sequence[bytes | memoryview]) -> None:
        """See `SumStore`."""
        write_whole(self.path(name), [digest_of(*parts).encode(), *parts])

    def read(self, name: str) -> NDArray[np.uint8]:
        """See `SumStore`."""
        path = self.path(name)
        try:
            digest, data = patiently(lambda: _read(path), path)
        except OSError as error:
            raise RunFolderError(f"{path}: cannot be read ({error.strerror})") from error
        if digest_of(data.data).encode() != digest:
            raise RunFolderError(f"{path}: damaged, it does not fit its digest")
        return data

    def forget(self) -> None:
        """See `SumStore`."""
        for path in self._folder.glob(f"*{_SUFFIX}"):
            path.unlink(missing_ok=True)


def _read(path: Path) -> tuple[bytes, NDArray[np.uint8]]:
    with path.open("rb") as file:
        return file.read(_DIGEST_CHARS), np.fromfile(file, dtype=np.uint8)


class MemorySums:
    """The in-memory twin of `SumFiles`."""

    def __init__(self) -> None:
        self._kept: dict[str, bytes] = {}

    def write(self, name: str, parts: Sequence[bytes | memoryview]) -> None:
        """Remember sums."""
        self._kept[name] = b"".join(parts)

    def read(self, name: str) -> NDArray[np.uint8]:
        """Give sums back."""
        if name not in self._kept:
            raise RunFolderError(f"sums {name} are not in memory")
        return np.frombuffer(bytearray(self._kept[name]), dtype=np.uint8)

    def forget(self) -> None:
        """Forget all sums."""
        self._kept.clear()
