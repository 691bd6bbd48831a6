"""Versions of named vectors in a folder: the file of each holds those that changed, and says where the others lie."""

from __future__ import annotations

import logging
from collections.abc import Callable, Collection, Iterable, Iterator
from pathlib import Path

from common.errors import RunFolderError
from common.parameters.vector import Vector
from server.storage.files import write_whole
from server.storage.tensor_files import Places, SchemaOf, Vectors, chunks_of, opened

log = logging.getLogger("fedmtl.server")

KEPT_VERSIONS = 2
"""Versions that are kept in any case: the published one and the one before it."""
SUFFIX = ".safetensors"
DigestsOf = Callable[[str], Collection[str]]
"""The digests that a file may have, by its place in the run folder; none where nobody knows."""


def unknown(_: str) -> Collection[str]:
    """The digests where nobody knows any."""
    return ()


def earlier_files(root: Path, name: str) -> Iterator[str]:
    """The other files that hold vectors of the version in a file; names are places in the run folder `root`.

    Raises:
        RunFolderError: that file is missing or damaged.
    """
    with opened(root / name) as file:
        places = {*file.places(own := int(Path(name).stem)).values()} - {own}
    yield from (f"{Path(name).parent}/{place}{SUFFIX}" for place in sorted(places))


class VersionFiles:
    """Files `<version>.safetensors`, each written to a temporary name, synced, then renamed: whole or not there.

    Only what changed is written, where the version before was written or read here; else everything is. A file stays
    as long as a kept version has vectors in it, so there are at most as many as kept versions and vectors together.
    """

    def __init__(self, root: Path, name_of: Callable[[int], str], schema_of: SchemaOf) -> None:
        self._root = root
        self.name = name_of
        """The place of a version's file in the run folder `root`."""
        self._schema_of = schema_of
        self._places: dict[int, Places] = {}

    def path(self, version: int) -> Path:
        """Where the file of a version lies."""
        return self._root / self.name(version)

    def write(
        self, version: int, vectors: Vectors, changed: Collection[str], kept: Collection[int] = ()
    ) -> dict[str, str]:
        """Write a version in which these vectors changed, and remove files that nobody needs; the digest by its name.

        `kept` are versions that stay besides the newest ones.

        Raises:
            RunFolderError: the disk does not take it.
        """
        before = self._places.get(version - 1, {})
        elsewhere = {name: before[name] for name in vectors if name in before and name not in changed}
        here = {name: vector for name, vector in vectors.items() if name not in elsewhere}
        digest = write_whole(self.path(version), chunks_of(here, self._schema_of, elsewhere))
        self._places[version] = elsewhere | dict.fromkeys(here, version)
        self._forget(version, kept)
        return {self.name(version): digest}

    def write_copy(self, version: int, content: bytes, kept: Collection[int] = ()) -> None:
        """Write the file of a version that is durable elsewhere, as all before it are; `kept` as in `write`."""
        write_whole(self.path(version), [content], durable=False)
        self._remove(version, kept)

    def _forget(self, version: int, kept: Collection[int]) -> None:
        newest = range(max(version - KEPT_VERSIONS + 1, 0), version + 1)
        older = [number for number in kept if number not in newest and self.path(number).is_file()]
        self._places = {number: places for number, places in self._places.items() if number in (*newest, *older)}
        try:
            for number in (number for number in older if number not in self._places):
                with opened(self.path(number)) as file:
                    self._places[number] = file.places(number)
        except RunFolderError as error:
            log.warning("%s; older versions stay, since nobody knows which of their files it needs", error)
            return
        if self._places.keys() >= {*newest}:  # else it is not known which files they need
            self._remove(version, {*older, *(place for places in self._places.values() for place in places.values())})

    def _remove(self, version: int, needed: Collection[int]) -> None:
        for old in self.path(version).parent.glob(f"*{SUFFIX}"):
            if old.stem.isdigit() and int(old.stem) <= version - KEPT_VERSIONS and int(old.stem) not in needed:
                old.unlink(missing_ok=True)

    def read(
        self, version: int, wanted: Callable[[Collection[str]], Iterable[str]], digests: DigestsOf = unknown
    ) -> dict[str, Vector]:
        """Read the `wanted` vectors of a version, out of the names that it has, from all files in which they lie.

        Raises:
            RunFolderError: a file is missing or damaged, or does not hold such vectors.
        """
        with opened(self.path(version), digests(self.name(version))) as file:
            places = file.places(version)
            names = list(wanted(places))
            found = {n: file.vector(self._schema_of(n)) for n in names if places.get(n, version) == version}
        for place in sorted({places[name] for name in names if name not in found}):
            needed_by = f", and version {version} needs it"
            with opened(self.path(place), digests(self.name(place)), needed_by) as file:
                found |= {n: file.vector(self._schema_of(n)) for n in names if places.get(n) == place}
        self._places[version] = places
        return {name: found[name] for name in names}

    def whole(self, vectors: Vectors) -> list[bytes | memoryview]:
        """What the file of a version holds that has all of its vectors in it, chunk by chunk."""
        return chunks_of(vectors, self._schema_of)
