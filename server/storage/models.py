"""Model versions on disk: `models/<version>.safetensors`, complete or absent."""

from __future__ import annotations

import json
import struct
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence, Set
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from types import MappingProxyType
from typing import Any, Protocol

import numpy as np
import xxhash
from safetensors import SafetensorError, safe_open
from safetensors.numpy import load

from common.errors import RunFolderError
from common.parameters.schema import ElementType, ParameterSchema
from common.parameters.scope import Scope, is_private, split_moment
from common.parameters.vector import Vector
from common.ports import INLINE_BYTES
from server.storage.files import digest_of, digest_of_file, write_whole
from server.storage.journal import KEPT_VERSIONS, Journal

Vectors = Mapping[str, Vector]
_NONE: Vectors = MappingProxyType({})
Digests = Collection[str]
_ANY: Digests = ()
_OF_SCOPE = "scope:"
_TYPES = {ElementType.FLOAT32: "F32", ElementType.FLOAT64: "F64"}
MODELS = "models"
OPTIMIZER = "optimizer"
"""The folder of model versions in a run folder, and that of the optimizer's moments in it."""
PRIVATE_FILE = "private"
"""The file of the private scopes' initial values; versions are numbers."""


class ModelStore(Protocol):
    """Where published versions survive a crash."""

    def write(self, version: int, vectors: Vectors, moments: Vectors = _NONE) -> None:
        """Make a version durable: before returning, or with the journal's next commit, which publishes it.

        `moments` are the server optimizer's, `<moment>/<scope>`, of the same sizes; they are durable on return.
        """
        ...

    def read_moments(self, version: int, names: Sequence[str]) -> dict[str, Vector]:
        """The optimizer's moments of these names as of a version.

        Raises:
            RunFolderError: they are not there.
        """
        ...

    def read(self, version: int) -> dict[str, Vector]:
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
    inside: str = MODELS

    def path(self, version: int | str) -> Path:
        """Where a version lies."""
        return self.folder / f"{version}.safetensors"

    def name(self, version: int | str) -> str:
        """What the journal calls the file: its place in the run folder."""
        return f"{self.inside}/{version}.safetensors"

    def write(self, version: int, vectors: Vectors, moments: Vectors = _NONE) -> dict[str, str]:
        """Write a version and forget those that nobody needs any more; the files' digests by their names."""
        written = self.write_moments(version, moments) if moments else {}
        written |= self.write_named(str(version), vectors)
        self._forget_before(version)
        return written

    def write_copy(self, version: int, data: bytes) -> None:
        """Write the file of a version that is durable elsewhere."""
        write_whole(self.path(version), [data], durable=False)
        self._forget_before(version)

    def _forget_before(self, version: int) -> None:
        for old in self.folder.glob("*.safetensors"):
            if old.stem.isdigit() and int(old.stem) <= version - KEPT_VERSIONS:
                old.unlink(missing_ok=True)

    def write_moments(self, version: int, moments: Vectors) -> dict[str, str]:
        """Write the optimizer's moments of a version, beside the models and for the same versions."""
        return self._beside(list(moments)).write(version, moments)

    def read_moments(self, version: int, names: Sequence[str], digests: Digests = _ANY) -> dict[str, Vector]:
        """Read the moments of a version back."""
        return self._beside(names).read_named(str(version), list(names), digests) if names else {}

    def digest_of_moments(self, moments: Vectors) -> str:
        """The digest of the file that these moments would be written to."""
        return self._beside(list(moments)).digest(moments)

    def _beside(self, names: Sequence[str]) -> ModelFiles:
        """The files of the optimizer's moments, whose tensors are called `<moment>.<parameter>`."""
        schemas = {}
        for name in names:
            moment, scope = split_moment(name)
            schemas[name] = self._schema(scope).named_under(f"{moment}.")
        return ModelFiles(self.folder / OPTIMIZER, schemas, f"{self.inside}/{OPTIMIZER}")

    def write_named(self, name: str, vectors: Vectors) -> dict[str, str]:
        """Write vectors under a name of their own, such as the initial values of private parameters.

        Raises:
            RunFolderError: the disk does not take it.
        """
        return {self.name(name): write_whole(self.path(name), list(self._parts(vectors)))}

    def digest(self, vectors: Vectors) -> str:
        """The digest of the file that these vectors would be written to."""
        content = xxhash.xxh3_128()
        for part in self._parts(vectors):
            content.update(part)
        return content.hexdigest()

    def encode(self, vectors: Vectors) -> bytes:
        """What the file of these vectors would hold."""
        return b"".join(self._parts(vectors))

    def _parts(self, vectors: Vectors) -> Iterator[bytes | memoryview]:
        scopes = sorted(vectors)
        yield _header({scope: self._schema(scope) for scope in scopes})
        for scope in scopes:
            yield vectors[scope].data.cast("B")

    def decode(self, data: bytes, where: Path) -> dict[str, Vector]:
        """The vectors of the travelling scopes out of `encode`'s bytes.

        Raises:
            RunFolderError: they are damaged, or do not hold these parameters; it names `where` they come from.
        """
        try:
            tensors = load(data)
        except SafetensorError as error:
            raise RunFolderError(f"{where}: damaged ({error}); restore a backup or start a new run") from error
        length = int.from_bytes(data[:8], "little")
        scopes = self._scopes(json.loads(data[8 : 8 + length])["__metadata__"])
        return {scope: _vector(set(tensors), tensors.__getitem__, self._schema(scope), where) for scope in scopes}

    def read(self, version: int, digests: Digests = _ANY) -> dict[str, Vector]:
        """Read a version back into one vector per travelling scope."""
        return self.read_named(str(version), digests=digests)

    def read_named(self, name: str, scopes: Sequence[str] | None = None, digests: Digests = _ANY) -> dict[str, Vector]:
        """Read named vectors; without `scopes` all travelling ones of the federation, and more that the file has.

        Raises:
            RunFolderError: the file is missing or damaged (its digest is not among `digests`, if there are any), or
                does not hold these parameters.
        """
        path = self.path(name)
        if not path.is_file():
            raise RunFolderError(f"{path}: missing; restore a backup or start a new run")
        try:
            if digests and digest_of_file(path) not in digests:
                raise RunFolderError(f"{path}: damaged, it does not fit its digest; restore a backup")
            with safe_open(path, framework="np") as file:
                names = set(file.keys())
                wanted = self._scopes(file.metadata() or {}) if scopes is None else scopes
                return {scope: _vector(names, file.get_tensor, self._schema(scope), path) for scope in wanted}
        except (OSError, SafetensorError) as error:
            raise RunFolderError(f"{path}: damaged ({error}); restore a backup or start a new run") from error

    def _scopes(self, metadata: Mapping[str, str]) -> list[str]:
        """The travelling scopes, and those of groups and members that a file's metadata names.

        Others are of a task that is about to join the run.
        """
        known = [scope for scope in self.schemas if not is_private(scope)]
        found = (key.removeprefix(_OF_SCOPE) for key in metadata if key.startswith(_OF_SCOPE))
        return known + sorted(s for s in found if s not in self.schemas and Scope.parse(s).template in self.schemas)

    def _schema(self, scope: str) -> ParameterSchema:
        """A scope's schema. Those of one template hold the same parameters, so theirs are named after the scope."""
        if scope in self.schemas:
            return self.schemas[scope]
        return self.schemas[Scope.parse(scope).template].named_under(f"{scope}/")


class JournalledModels:
    """Model files, but small models lie in the journal: the commit that publishes a version makes it durable too.

    Every commit holds the digests of what its version is made of, and what is read is compared with them.
    """

    def __init__(self, files: ModelFiles, journal: Journal) -> None:
        self._files = files
        self._journal = journal

    def write(self, version: int, vectors: Vectors, moments: Vectors = _NONE) -> None:
        """Write a version, or let the next commit hold it; a file follows. Moments go to files in any case."""
        if sum(vector.nbytes for vector in vectors.values()) <= INLINE_BYTES:
            written = self._files.write_moments(version, moments) if moments else {}
            data = self._files.encode(vectors)
            self._journal.enclose(version, data, partial(self._files.write_copy, version, data))
            written[self._files.name(version)] = digest_of(data)
        else:
            written = self._files.write(version, vectors, moments)
        for name, digest in written.items():
            self._journal.note(name, [digest])

    def read(self, version: int) -> dict[str, Vector]:
        """Read a version back from wherever it lies whole."""
        data, digests = self._journal.model(version), self._journal.digests(self._files.name(version))
        if data is None or (digests and digest_of(data) not in digests):
            return self._files.read(version, digests)
        return self._files.decode(data, self._files.path(version))

    def read_moments(self, version: int, names: Sequence[str]) -> dict[str, Vector]:
        """Read the moments of a version back."""
        digests = self._journal.digests(self._files.name(f"{OPTIMIZER}/{version}"))
        return self._files.read_moments(version, names, digests)

    def write_out(self, version: int) -> None:
        """Make the file of a version that lies in the journal alone, durably, for those who look for it."""
        if self._journal.model(version) is not None:
            self._files.write(version, self.read(version))


class MemoryModels:
    """The in-memory twin of `ModelFiles`."""

    def __init__(self) -> None:
        self._kept: dict[int, dict[str, Vector]] = {}
        self._moments: dict[int, dict[str, Vector]] = {}

    def write(self, version: int, vectors: Vectors, moments: Vectors = _NONE) -> None:
        """Remember a version and forget those that nobody needs any more."""
        for kept, values in ((self._kept, vectors), (self._moments, moments)):
            kept[version] = {name: vector.copy() for name, vector in values.items()}
            for old in [old for old in kept if old <= version - KEPT_VERSIONS]:
                del kept[old]

    def read_moments(self, version: int, names: Sequence[str]) -> dict[str, Vector]:
        """Give the moments of a version back."""
        found = self._moments.get(version, {})
        if not set(names) <= set(found):
            raise RunFolderError(f"moments of version {version} are not in memory")
        return {name: found[name].copy() for name in names}

    def read(self, version: int) -> dict[str, Vector]:
        """Give a version back."""
        if version not in self._kept:
            raise RunFolderError(f"version {version} is not in memory")
        return {scope: vector.copy() for scope, vector in self._kept[version].items()}


def _vector(present: Set[str], tensor_of: Callable[[str], Any], schema: ParameterSchema, path: Path) -> Vector:
    """One scope's vector out of the tensors of a safetensors file."""
    vector: Vector = np.empty(schema.size, dtype=schema.dtype.value)
    for entry in schema.entries:
        if entry.name not in present:
            raise RunFolderError(f"{path}: parameter '{entry.name}' is missing; start a new run")
        tensor = tensor_of(entry.name)
        if tensor.shape != entry.shape or tensor.dtype != vector.dtype:
            found, wanted = f"{tensor.shape} {tensor.dtype}", f"{entry.shape} {vector.dtype}"
            raise RunFolderError(f"{path}: '{entry.name}' is {found}, expected {wanted}")
        vector[entry.offset : entry.offset + entry.count] = tensor.ravel()
    return vector


def _header(schemas: Mapping[str, ParameterSchema]) -> bytes:
    """The safetensors header: its length as u64, then JSON padded with spaces to 8 bytes."""
    entries: dict[str, object] = {"__metadata__": {f"{_OF_SCOPE}{s}": schema.digest for s, schema in schemas.items()}}
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
