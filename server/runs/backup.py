"""A copy of a run folder with which the run can go on, taken while it runs or after."""

from __future__ import annotations

import shutil
import tempfile
from contextlib import suppress
from pathlib import Path

from common.errors import RunFolderError
from server.runs.kept import kept_versions
from server.runs.recovery import FIXED, fall_back, files_of, require_files
from server.runs.run_folder import JOURNAL, RunFolder
from server.storage.files import digest_of_file, sync_folder, unwritable
from server.storage.journal import Journal
from server.storage.models import moments_name, version_name
from server.storage.sums import SUMS

TRIES = 20
"""How often a copy is begun again because rounds closed faster than a version could be copied."""
DERIVED = ("metrics.jsonl", "report.json")
CLIENTS = "clients"
"""What virtual clients of a simulation keep."""


def back_up(path: Path, out: Path) -> str:
    """Copy a run to a new folder, whole or not at all; says what was copied.

    Raises:
        RunFolderError: there is no run, or one that is damaged, or the copy cannot be written.
    """
    folder = RunFolder.open(path)
    if out.exists() and (not out.is_dir() or any(out.iterdir())):
        raise RunFolderError(f"--out: '{out}' exists and is not empty; choose another folder")
    try:
        out.parent.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(prefix=f".{out.name}.", dir=out.parent) as name:
            copy = Path(name) / "copy"
            version = _copied(folder, copy)
            copy.rename(out)
            sync_folder(out.parent)
    except OSError as error:
        raise unwritable(out, error) from None
    return f"{path}: copied to {out}, as of round {version}; go on there with --resume --run_dir {out}"


def _copied(folder: RunFolder, copy: Path) -> int:
    """Copy everything; the copy's version. The journal comes first: what it says is then looked for."""
    for _ in range(TRIES):
        copy.mkdir(parents=True)
        journal = Journal.read(folder.journal)
        try:
            require_files(folder, journal)
            version = journal.completed()
            if not _copy_version(folder, journal, version, copy):
                if Journal.read(folder.journal).completed() != version:
                    shutil.rmtree(copy)
                    continue
                fall_back(folder, journal)  # no round closed meanwhile: the version is damaged
                version = journal.completed()
                _copy_version(folder, journal, version, copy)
            if version and not _copy_version(folder, journal, version - 1, copy):  # the reserve; it may be gone
                needed = {*files_of(copy, journal, version)}
                for name in {version_name(version - 1), moments_name(version - 1)} - needed:
                    (copy / name).unlink(missing_ok=True)
            for older in kept_versions(folder, journal):
                _copy_version(folder, journal, older, copy, with_moments=False)  # it may be gone, too
            _copy_sums(folder.path / SUMS, copy / SUMS)
            for name in FIXED:
                _copy(folder.path / name, copy / name)
            journal.copy_to(copy / JOURNAL)
        finally:
            journal.close()
        for name in DERIVED:
            if (folder.path / name).exists():
                _copy(folder.path / name, copy / name)
        if (folder.path / CLIENTS).is_dir():
            shutil.copytree(folder.path / CLIENTS, copy / CLIENTS)
        return version
    raise RunFolderError(f"{folder.path}: rounds close faster than a version can be copied; try again later")


def _copy_version(folder: RunFolder, journal: Journal, version: int, copy: Path, with_moments: bool = True) -> bool:
    """Copy the files of a version that the journal does not hold; False if one is gone or does not fit its digest."""
    for name in files_of(copy, journal, version, with_moments):
        if (copy / name).exists():  # of the other version, and whole
            continue
        try:
            _copy(folder.path / name, copy / name)
        except FileNotFoundError:
            return False
        if digest_of_file(copy / name) not in journal.digests(name):
            (copy / name).unlink()
            return False
    return True


def _copy_sums(source: Path, target: Path) -> None:
    """Copy sums that wait to be opened. Where some were opened meanwhile, their round starts again in the copy."""
    for path in source.glob("[!.]*"):
        with suppress(FileNotFoundError):
            _copy(path, target / path.name)


def _copy(source: Path, target: Path) -> None:
    target.parent.mkdir(parents=True, exist_ok=True)
    shutil.copyfile(source, target)
