"""Damage at rest in a run folder: what is whole, what comes back from a copy, and which version a run goes on from."""

from __future__ import annotations

import base64
import binascii
import json
import logging
import zlib
from collections.abc import Iterator
from pathlib import Path

from common.errors import RunFolderError
from server.runs.kept import kept_versions
from server.runs.run_folder import CONFIG, DESCRIPTION, TOKENIZER, RunFolder
from server.storage.files import digest_of, digest_of_file
from server.storage.journal import Journal
from server.storage.models import PRIVATE_NAME, moments_name, version_name
from server.storage.versions import KEPT_VERSIONS, earlier_files

log = logging.getLogger("fedmtl.server")

FIXED = (CONFIG, DESCRIPTION, TOKENIZER, PRIVATE_NAME)
"""The files of a run that no round changes."""
COPIED_BYTES = 4 << 20
"""The journal keeps copies of those that are not larger than this when packed."""


def note_files(folder: RunFolder, journal: Journal) -> None:
    """Let the next commit know the files that a run begins with."""
    for name in FIXED:
        note_file(journal, name, (folder.path / name).read_bytes())
    first = version_name(0)
    journal.note(first, [digest_of_file(folder.path / first)])


def note_file(journal: Journal, name: str, data: bytes, before: frozenset[str] = frozenset()) -> None:
    """Let the next commit know a file's content, with a copy if it is small; it may still have a digest of `before`."""
    packed = base64.b85encode(zlib.compress(data)).decode() if len(data) <= 4 * COPIED_BYTES else ""
    journal.note(name, {digest_of(data), *before}, packed if len(packed) <= COPIED_BYTES else "")


_MISSING = "it is missing"


def wrong_with(folder: RunFolder, journal: Journal, name: str) -> str:
    """What is wrong with a file that the journal knows, in a few words; empty where nothing is."""
    try:
        fits = digest_of_file(folder.path / name) in journal.digests(name)
    except FileNotFoundError:
        return _MISSING
    except OSError as error:
        return f"it cannot be read ({error.strerror})"
    return "" if fits else "it does not fit its digest"


def damaged_files(folder: RunFolder, journal: Journal) -> Iterator[tuple[str, str]]:
    """The damaged ones of the files that no round changes, and what is wrong with each."""
    for name in FIXED:
        if journal.digests(name) and (wrong := wrong_with(folder, journal, name)):
            yield name, wrong


def mend_files(folder: RunFolder, journal: Journal) -> None:
    """Put damaged files back from the journal's copies, and say so.

    Raises:
        RunFolderError: there is no copy of one; it names the file and the remedy.
    """
    for name, wrong in damaged_files(folder, journal):
        data = _copy_of(journal, name)
        if data is None:
            raise RunFolderError(f"{folder.path / name}: {wrong}, and it has no copy; put it back from a backup")
        folder.write(folder.path / name, data)
        log.warning("%s: %s; it is put back from the journal's copy", folder.path / name, wrong)


def _copy_of(journal: Journal, name: str) -> bytes | None:
    packed = journal.copy(name)
    try:
        data = zlib.decompress(base64.b85decode(packed)) if packed else None
    except (ValueError, zlib.error, binascii.Error):
        return None
    return data if data is not None and digest_of(data) in journal.digests(name) else None


def require_files(folder: RunFolder, journal: Journal) -> None:
    """Check the same files for somebody who only reads the run.

    Raises:
        RunFolderError: one is damaged.
    """
    for name, wrong in damaged_files(folder, journal):
        raise RunFolderError(f"{folder.path / name}: {wrong}; --resume puts it back if the journal has a copy")


def files_of(root: Path, journal: Journal, version: int, with_moments: bool = True) -> Iterator[str]:
    """The files that a version is made of, besides what the journal holds, by their names.

    Only the newest versions still have moments, with which a run goes on. Which files come after one is only known
    once that one is whole, in `root`.
    """
    model, moments = version_name(version), moments_name(version)
    inside = journal.model(version)
    found = [] if inside is not None and digest_of(inside) in journal.digests(model) else [model]
    for name in [*found, *([moments] if with_moments and journal.digests(moments) else [])]:
        yield name
        yield from earlier_files(root, name)


def wrong_with_version(folder: RunFolder, journal: Journal, version: int, with_moments: bool = True) -> str:
    """Why a run could not go on from a version, in a few words; empty where it could.

    Without moments: why it could not be used.
    """
    for name in files_of(folder.path, journal, version, with_moments):
        if wrong := wrong_with(folder, journal, name):
            return f"{name}: {wrong}"
    return ""


def _wrong_copies(folder: RunFolder, journal: Journal, version: int) -> Iterator[str]:
    """What is wrong with either copy of a small version, which the journal has too."""
    name, inside = version_name(version), journal.model(version)
    if inside is None or not journal.digests(name):
        return
    if digest_of(inside) not in journal.digests(name):
        yield f"{folder.journal}: version {version} in it does not fit its digest; {name} has it too"
    elif (folder.path / name).exists() and (wrong := wrong_with(folder, journal, name)):
        yield f"{folder.path / name}: {wrong}; the journal has this version too"


def fall_back(folder: RunFolder, journal: Journal) -> None:
    """Let the journal stand at the newest version that is whole, and say so if that is not the last one.

    Raises:
        RunFolderError: none is.
    """
    found: list[str] = []
    newest = journal.completed()
    for version in range(newest, max(newest - KEPT_VERSIONS, -1), -1):
        wrong = wrong_with_version(folder, journal, version)
        if not wrong:
            for line in _wrong_copies(folder, journal, version):
                log.warning("%s", line)
            if found:
                log.warning("%s/%s; the run stands at version %d again", folder.path, found[0], version)
                journal.go_back(version)
            return
        found += [wrong] if wrong not in found else []
    raise RunFolderError(f"{folder.path}: no whole model is left ({'; '.join(found)}); restore a backup")


def examine(path: Path) -> tuple[list[str], str]:
    """Everything that is wrong in a run folder, one line each, and what was looked at. Nothing is written.

    Raises:
        RunFolderError: there is no run, or both copies of its journal are damaged.
    """
    folder = RunFolder.open(path)
    journal = Journal.read(folder.journal)
    found = list(journal.findings)
    try:
        if journal.facts().began is None:
            folder.require_untrained()
            raise RunFolderError(f"run_dir: '{path}' holds a run that never began; start it with --resume")
        damaged = [f"{path / name}: {wrong}" for name, wrong in damaged_files(folder, journal)]
        found += damaged
        newest, kept = journal.completed(), 0
        for version in range(newest, max(newest - KEPT_VERSIONS, -1), -1):
            if wrong := wrong_with_version(folder, journal, version):
                line = f"{path}/{wrong}"
                if line not in found and (version == newest or not wrong.endswith(_MISSING)):  # the older is a reserve
                    found.append(line)
            else:
                found += _wrong_copies(folder, journal, version)
                kept += 1
        older = [] if damaged else [v for v in kept_versions(folder, journal) if v <= newest - KEPT_VERSIONS]
        wrongs = [wrong for version in older if (wrong := wrong_with_version(folder, journal, version, False))]
        found += dict.fromkeys(line for wrong in wrongs if (line := f"{path}/{wrong}") not in found)
        kept += len(older) - len(wrongs)
        found += [f"{path / name}: {wrong}" for name in _reports(folder) if (wrong := _wrong_json(path / name))]
        return found, f"{newest} rounds; {kept} versions, the journal and its second copy, {len(FIXED)} other files"
    finally:
        journal.close()


def _reports(folder: RunFolder) -> list[str]:
    return [name for name in ("report.json",) if (folder.path / name).exists()]


def _wrong_json(path: Path) -> str:
    try:
        json.loads(path.read_bytes())
    except (OSError, ValueError) as error:
        return f"it cannot be read ({error}); --resume of the run writes it again"
    return ""
