"""Model versions on disk: `models/<version>.safetensors`, complete or absent."""

from __future__ import annotations

import json
import os
import struct
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

import numpy as np
from numpy.typing import NDArray
from safetensors import safe_open

from common.errors import RunFolderError
from common.parameters.schema import ParameterSchema

Vectors = Mapping[str, NDArray[np.float32]]
KEPT_VERSIONS = 2


class ModelStore(Protocol):
    """Where published versions survive a crash."""

    def write(self, version: int, vectors: Vectors) -> None:
        """Make a version durable before returning."""
        ...

    def read(self, version: int) -> dict[str, NDArray[np.float32]]:
        """The vectors of a version."""
        ...


@dataclass(frozen=True)
class ModelFiles:
    """One safetensors file per version; tensors carry their parameter names, in the order of the scopes' vectors.

    Written to a temporary name, synced, then renamed, so that a version is there whole or not at all. The file is
    written straight from the vectors, since the library's writer would first copy them all.
    """

    folder: Path
    schemas: Mapping[str, ParameterSchema]

    def path(self, version: int | str) -> Path:
        """Where a version lies."""
        return self.folder / f"{version}.safetensors"

    def write(self, version: int, vectors: Vectors) -> None:
        """Write a version and forget those that nobody needs any more."""
        self.write_named(str(version), vectors)
        for old in self.folder.glob("*.safetensors"):
            if old.stem.isdigit() and int(old.stem) <= version - KEPT_VERSIONS:
                old.unlink()

    def write_named(self, name: str, vectors: Vectors) -> None:
        """Write vectors under a name of their own, such as the initial values of private parameters."""
        self.folder.mkdir(parents=True, exist_ok=True)
        scopes = sorted(vectors)
        temporary = self.folder / f".{name}.partial"
        with temporary.open("wb") as file:
            file.write(_header({scope: self.schemas[scope] for scope in scopes}))
            for scope in scopes:
                file.write(vectors[scope].data.cast("B"))
            file.flush()
            os.fsync(file.fileno())
        temporary.rename(self.path(name))
        sync_folder(self.folder)

    def read(self, version: int) -> dict[str, NDArray[np.float32]]:
        """Read a version back into one vector per travelling scope."""
        return self.read_named(str(version), [s for s in self.schemas if not s.startswith("private")])

    def read_named(self, name: str, scopes: list[str]) -> dict[str, NDArray[np.float32]]:
        """Read named vectors.

        Raises:
            RunFolderError: the file is missing or does not hold these parameters.
        """
        path = self.path(name)
        if not path.is_file():
            raise RunFolderError(f"{path}: missing; the run folder is incomplete, start a new run")
        vectors = {}
        with safe_open(path, framework="np") as file:
            for scope in scopes:
                vector = np.empty(self.schemas[scope].size, dtype=np.float32)
                for entry in self.schemas[scope].entries:
                    try:
                        tensor = file.get_tensor(entry.name)
                    except Exception as error:  # the library's own exception type is not public
                        raise RunFolderError(f"{path}: parameter '{entry.name}' is missing") from error
                    if tensor.shape != entry.shape:
                        raise RunFolderError(f"{path}: '{entry.name}' is {tensor.shape}, expected {entry.shape}")
                    vector[entry.offset : entry.offset + entry.count] = tensor.ravel()
                vectors[scope] = vector
        return vectors


class MemoryModels:
    """The in-memory twin of `ModelFiles`: keeps the newest version."""

    def __init__(self) -> None:
        self._newest: tuple[int, dict[str, NDArray[np.float32]]] | None = None

    def write(self, version: int, vectors: Vectors) -> None:
        """Remember a version."""
        self._newest = (version, dict(vectors))

    def read(self, version: int) -> dict[str, NDArray[np.float32]]:
        """Give the newest version back."""
        if self._newest is None or self._newest[0] != version:
            raise RunFolderError(f"version {version} is not in memory")
        return dict(self._newest[1])


def sync_folder(folder: Path) -> None:
    """Make renames in a folder durable."""
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def _header(schemas: Mapping[str, ParameterSchema]) -> bytes:
    """The safetensors header: its length as u64, then JSON padded with spaces to 8 bytes."""
    entries: dict[str, object] = {"__metadata__": {f"scope:{s}": schema.digest for s, schema in schemas.items()}}
    start = 0
    for schema in schemas.values():
        for entry in schema.entries:
            begin = start + 4 * entry.offset
            entries[entry.name] = {
                "dtype": "F32",
                "shape": list(entry.shape),
                "data_offsets": [begin, begin + 4 * entry.count],
            }
        start += schema.nbytes
    text = json.dumps(entries, separators=(",", ":")).encode()
    text += b" " * (-len(text) % 8)
    return struct.pack("<Q", len(text)) + text
