"""Where published model versions survive a crash: in files, in the journal if they are small, or in memory alone."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Protocol

from common.errors import RunFolderError
from common.methods.averages import AVERAGE
from common.parameters.schema import ParameterSchema
from common.parameters.scope import Scope, is_private, split_moment
from common.parameters.vector import Vector
from common.ports import INLINE_BYTES
from server.storage.files import digest_of, write_whole
from server.storage.journal import Journal
from server.storage.sums import MemorySums, SumFiles, SumStore
from server.storage.tensor_files import NO_VECTORS, TensorFile, Vectors, chunks_of, decoded, opened
from server.storage.versions import KEPT_VERSIONS, SUFFIX, DigestsOf, VersionFiles, unknown

MODELS = "models"
"""The folder of model versions in a run folder; in its folder `optimizer` lie the optimizer's moments."""
PRIVATE_NAME = f"{MODELS}/private{SUFFIX}"
"""The file of the private scopes' initial values."""


def version_name(version: int) -> str:
    """What the journal calls the file of a version."""
    return f"{MODELS}/{version}{SUFFIX}"


def moments_name(version: int) -> str:
    """What the journal calls the file of the optimizer's moments of a version."""
    return f"{MODELS}/optimizer/{version}{SUFFIX}"


class ModelStore(Protocol):
    """Where published versions survive a crash."""

    @property
    def sums(self) -> SumStore:
        """Where the sums of the next one do, before they are opened."""
        ...

    def write(
        self,
        version: int,
        vectors: Vectors,
        changed: Collection[str],
        moments: Vectors = NO_VECTORS,
        kept: Collection[int] = (),
    ) -> None:
        """Make a version durable: before returning, or with the journal's next commit, which publishes it.

        `changed` are the scopes whose values are others than in the version before. `moments` are the server
        optimizer's, `<moment>/<scope>`, of the same sizes; they are durable on return. `kept` are older versions that
        stay, without moments, besides the one before.
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


class ModelFiles:
    """A run's files of parameters. Tensors carry the parameters' names, in the order of the scopes' vectors."""

    def __init__(self, root: Path, schemas: Mapping[str, ParameterSchema]) -> None:
        self._root = root
        self._schemas = schemas
        self.versions = VersionFiles(root, version_name, self._schema)
        """Of the model."""
        self.moments = VersionFiles(root, moments_name, self._moment_schema)
        """Of the optimizer's moments, for the same versions; tensors are called `<moment>.<parameter>`."""
        self.sums: SumStore = SumFiles(root)
        """Of a round under way."""

    def write(
        self,
        version: int,
        vectors: Vectors,
        changed: Collection[str],
        moments: Vectors = NO_VECTORS,
        kept: Collection[int] = (),
    ) -> dict[str, str]:
        """Write a version and forget those that nobody needs any more; the files' digests by their names."""
        written = self.write_moments(version, moments, changed)
        return written | self.versions.write(version, vectors, changed, kept)

    def write_moments(self, version: int, moments: Vectors, changed: Collection[str]) -> dict[str, str]:
        """Write the optimizer's moments of a version in which these scopes changed; averages change in each version."""
        parts = {name: split_moment(name) for name in moments}
        moved = {name for name, (moment, scope) in parts.items() if scope in changed or moment == AVERAGE}
        return self.moments.write(version, moments, moved) if moments else {}

    def read(self, version: int, digests: DigestsOf = unknown) -> dict[str, Vector]:
        """Read a version back into one vector per travelling scope."""
        return self.versions.read(version, self._travelling, digests)

    def read_moments(self, version: int, names: Sequence[str], digests: DigestsOf = unknown) -> dict[str, Vector]:
        """Read the moments of a version back."""
        return self.moments.read(version, lambda _: names, digests) if names else {}

    def write_private(self, vectors: Vectors) -> None:
        """Write the initial values of the private scopes."""
        write_whole(self._root / PRIVATE_NAME, self.private(vectors))

    def private(self, vectors: Vectors) -> list[bytes | memoryview]:
        """What that file holds, chunk by chunk."""
        return chunks_of(vectors, self._schema)

    def read_private(self) -> dict[str, Vector]:
        """Read them back."""
        with opened(self._root / PRIVATE_NAME) as file:
            return {scope: file.vector(schema) for scope, schema in self._schemas.items() if is_private(scope)}

    def decode(self, file: TensorFile) -> dict[str, Vector]:
        """The vectors of the travelling scopes out of a file that holds all of them."""
        return {scope: file.vector(self._schema(scope)) for scope in self._travelling(file.places(0))}

    def _travelling(self, found: Collection[str]) -> list[str]:
        """The travelling scopes, and those of groups and members that are `found` in a version.

        Others are of a task that is about to join the run.
        """
        known = [scope for scope in self._schemas if not is_private(scope)]
        return known + sorted(s for s in found if s not in self._schemas and Scope.parse(s).template in self._schemas)

    def _schema(self, scope: str) -> ParameterSchema:
        """A scope's schema. Those of one template hold the same parameters, so theirs are named after the scope."""
        if scope in self._schemas:
            return self._schemas[scope]
        return self._schemas[Scope.parse(scope).template].named_under(f"{scope}/")

    def _moment_schema(self, name: str) -> ParameterSchema:
        moment, scope = split_moment(name)
        return self._schema(scope).named_under(f"{moment}.")


class JournalledModels:
    """Model files, but small models lie in the journal: the commit that publishes a version makes it durable too.

    Every commit holds the digests of what its version is made of, and what is read is compared with them.
    """

    def __init__(self, files: ModelFiles, journal: Journal) -> None:
        self._files = files
        self._journal = journal
        self.sums = files.sums
        """Of a round under way."""

    def write(
        self,
        version: int,
        vectors: Vectors,
        changed: Collection[str],
        moments: Vectors = NO_VECTORS,
        kept: Collection[int] = (),
    ) -> None:
        """Write a version, or let the next commit hold all of it; a file follows. Moments go to files in any case."""
        written = self._files.write_moments(version, moments, changed)
        if sum(vector.nbytes for vector in vectors.values()) <= INLINE_BYTES:
            content = b"".join(self._files.versions.whole(vectors))
            copy = partial(self._files.versions.write_copy, version, content, kept)
            self._journal.enclose(version, content, copy, kept)
            written[version_name(version)] = digest_of(content)
        else:
            written |= self._files.versions.write(version, vectors, changed, kept)
        for name, digest in written.items():
            self._journal.note(name, [digest])

    def read(self, version: int) -> dict[str, Vector]:
        """Read a version back from wherever it lies whole."""
        content, digests = self._journal.model(version), self._journal.digests(version_name(version))
        if content is None or (digests and digest_of(content) not in digests):
            return self._files.read(version, self._journal.digests)
        return self._files.decode(decoded(content, self._files.versions.path(version)))

    def read_moments(self, version: int, names: Sequence[str]) -> dict[str, Vector]:
        """Read the moments of a version back."""
        return self._files.read_moments(version, names, self._journal.digests)

    def write_out(self, version: int) -> None:
        """Make the file of a version that lies in the journal alone, durably, for those who look for it."""
        if self._journal.model(version) is not None:
            vectors = self.read(version)
            self._files.versions.write(version, vectors, vectors, range(version))


class MemoryModels:
    """The in-memory twin of `ModelFiles`."""

    def __init__(self) -> None:
        self._kept: dict[int, tuple[Vectors, Vectors]] = {}
        self.sums: SumStore = MemorySums()
        """Of a round under way."""

    def write(
        self,
        version: int,
        vectors: Vectors,
        changed: Collection[str],
        moments: Vectors = NO_VECTORS,
        kept: Collection[int] = (),
    ) -> None:
        """Remember a version and forget those that nobody needs any more."""
        self._kept[version] = _copied(vectors, vectors), _copied(moments, moments)
        stays = {*range(version - KEPT_VERSIONS + 1, version + 1), *kept}
        self._kept = {number: values for number, values in self._kept.items() if number in stays}

    def read_moments(self, version: int, names: Sequence[str]) -> dict[str, Vector]:
        """Give the moments of a version back."""
        _, found = self._kept.get(version, (NO_VECTORS, NO_VECTORS))
        if not set(names) <= set(found):
            raise RunFolderError(f"moments of version {version} are not in memory")
        return _copied(found, names)

    def read(self, version: int) -> dict[str, Vector]:
        """Give a version back."""
        if version not in self._kept:
            raise RunFolderError(f"version {version} is not in memory")
        found, _ = self._kept[version]
        return _copied(found, found)


def _copied(vectors: Vectors, names: Collection[str]) -> dict[str, Vector]:
    return {name: vectors[name].copy() for name in names}
