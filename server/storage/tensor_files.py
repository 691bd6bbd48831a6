"""Vectors in safetensors files: written without a copy, read back by the names of their parameters.

A file's metadata say `scope:NAME`, with the schema's digest, of every vector in it, and `at:NAME`, with a version, of
those that lie in the file of an earlier version.
"""

from __future__ import annotations

import json
import struct
from collections.abc import Callable, Collection, Iterator, Mapping, Set
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from types import MappingProxyType
from typing import Any

import numpy as np
from safetensors import SafetensorError, safe_open
from safetensors.numpy import load

from common.errors import RunFolderError
from common.parameters.schema import ElementType, ParameterSchema
from common.parameters.vector import Vector
from server.storage.files import digest_of_file

Vectors = Mapping[str, Vector]
NO_VECTORS: Vectors = MappingProxyType({})
SchemaOf = Callable[[str], ParameterSchema]
"""The schema of a vector by its name."""
Places = Mapping[str, int]
"""By the names of vectors, the versions in whose files they lie."""
_NONE: Places = MappingProxyType({})
_HERE, _AT = "scope:", "at:"
_TYPES = {ElementType.FLOAT32: "F32", ElementType.FLOAT64: "F64"}


def chunks_of(vectors: Vectors, schema_of: SchemaOf, elsewhere: Places = _NONE) -> list[bytes | memoryview]:
    """The content of a file that holds `vectors` and says where others lie; the library's writer would copy them."""
    schemas = {name: schema_of(name) for name in sorted(vectors)}
    return [_header(schemas, elsewhere), *(vectors[name].data.cast("B") for name in schemas)]


def _header(schemas: Mapping[str, ParameterSchema], elsewhere: Places) -> bytes:
    """The safetensors header: its length as u64, then JSON padded with spaces to 8 bytes."""
    metadata = {f"{_HERE}{name}": schema.digest for name, schema in schemas.items()}
    metadata |= {f"{_AT}{name}": str(elsewhere[name]) for name in sorted(elsewhere)}
    entries: dict[str, object] = {"__metadata__": metadata}
    start = 0
    for schema in schemas.values():
        for entry in schema.entries:
            begin, width = start + schema.dtype.nbytes * entry.offset, schema.dtype.nbytes
            entries[entry.name] = {
                "dtype": _TYPES[schema.dtype],
                "shape": list(entry.shape),
                "data_offsets": [begin, begin + width * entry.count],
            }
        start += schema.nbytes
    text = json.dumps(entries, separators=(",", ":")).encode()
    text += b" " * (-len(text) % 8)
    return struct.pack("<Q", len(text)) + text


@dataclass(frozen=True)
class TensorFile:
    """What a file holds: its tensors by name, and what it says of itself."""

    path: Path
    names: Set[str]
    tensor: Callable[[str], Any]
    metadata: Mapping[str, str]

    def vector(self, schema: ParameterSchema) -> Vector:
        """The vector that has this schema.

        Raises:
            RunFolderError: one of its parameters is missing, or of another shape or type.
        """
        vector: Vector = np.empty(schema.size, dtype=schema.dtype.value)
        for entry in schema.entries:
            if entry.name not in self.names:
                raise RunFolderError(f"{self.path}: parameter '{entry.name}' is missing; start a new run")
            tensor = self.tensor(entry.name)
            if tensor.shape != entry.shape or tensor.dtype != vector.dtype:
                found, wanted = f"{tensor.shape} {tensor.dtype}", f"{entry.shape} {vector.dtype}"
                raise RunFolderError(f"{self.path}: '{entry.name}' is {found}, expected {wanted}")
            vector[entry.offset : entry.offset + entry.count] = tensor.ravel()
        return vector

    def places(self, version: int) -> dict[str, int]:
        """Where the vectors of a version lie, if this is its file."""
        here = {key.removeprefix(_HERE): version for key in self.metadata if key.startswith(_HERE)}
        return here | {key.removeprefix(_AT): int(at) for key, at in self.metadata.items() if key.startswith(_AT)}


@contextmanager
def opened(path: Path, digests: Collection[str] = (), needed_by: str = "") -> Iterator[TensorFile]:
    """A file to read from. Its digest has to be among `digests`, if there are any.

    Raises:
        RunFolderError: it is missing or damaged; it says who needs it.
    """
    if not path.is_file():
        raise RunFolderError(f"{path}: missing{needed_by}; restore a backup or start a new run")
    try:
        if digests and digest_of_file(path) not in digests:
            raise RunFolderError(f"{path}: damaged, it does not fit its digest{needed_by}; restore a backup")
        with safe_open(path, framework="np") as file:
            yield TensorFile(path, set(file.keys()), file.get_tensor, file.metadata() or {})
    except (OSError, SafetensorError) as error:
        raise RunFolderError(f"{path}: damaged ({error}){needed_by}; restore a backup or start a new run") from error


def decoded(data: bytes, path: Path) -> TensorFile:
    """The same of a file's content, in memory.

    Raises:
        RunFolderError: it is damaged; it names the `path` where the file would lie.
    """
    try:
        tensors = load(data)
    except SafetensorError as error:
        raise RunFolderError(f"{path}: damaged ({error}); restore a backup or start a new run") from error
    length = int.from_bytes(data[:8], "little")
    metadata = json.loads(data[8 : 8 + length])["__metadata__"]
    return TensorFile(path, set(tensors), tensors.__getitem__, metadata)
