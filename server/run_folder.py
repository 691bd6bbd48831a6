"""The run folder: `runs/<name>/` with the journal, the model versions, the report and the exact configuration."""

from __future__ import annotations

import fcntl
import json
import os
from collections.abc import Mapping
from dataclasses import asdict
from pathlib import Path

from common.errors import RunFolderError
from common.orders import ModelArchitecture
from common.parameters.circles import BySlot
from common.parameters.schema import ParameterSchema
from server.storage.models import sync_folder

JOURNAL = "journal.sqlite"
CONFIG = "config.yaml"
DESCRIPTION = "model.json"
LOCK = "lock"


class RunFolder:
    """One run's files, held exclusively while a coordinator works in them."""

    def __init__(self, path: Path) -> None:
        self.path = path

    @classmethod
    def create(cls, path: Path) -> RunFolder:
        """Make a new run folder.

        Raises:
            RunFolderError: it exists already.
        """
        if (path / JOURNAL).exists():
            raise RunFolderError(f"run_dir: '{path}' holds a run; add --resume to go on, or choose another --run_dir")
        # A lock alone is what a coordinator leaves that died before it wrote anything.
        if path.exists() and (not path.is_dir() or any(entry.name != LOCK for entry in path.iterdir())):
            raise RunFolderError(f"run_dir: '{path}' exists and is not empty; choose another --run_dir")
        try:
            path.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise RunFolderError(f"run_dir: '{path}' cannot be made ({error.strerror}); choose another") from None
        folder = cls(path)
        folder._hold()
        return folder

    @classmethod
    def resume(cls, path: Path) -> RunFolder:
        """Open the folder of a run that was interrupted.

        Raises:
            RunFolderError: there is no run, or another coordinator works on it.
        """
        folder = cls.open(path)
        folder._hold()
        return folder

    @classmethod
    def open(cls, path: Path) -> RunFolder:
        """Open a run folder to read from it.

        Raises:
            RunFolderError: there is no run.
        """
        if not (path / JOURNAL).is_file():
            raise RunFolderError(f"run_dir: '{path}' holds no run; check the path or leave --resume out")
        return cls(path)

    @property
    def journal(self) -> Path:
        """The SQLite file."""
        return self.path / JOURNAL

    @property
    def models(self) -> Path:
        """The folder of model versions."""
        return self.path / "models"

    @property
    def config(self) -> Path:
        """The resolved configuration of the run."""
        return self.path / CONFIG

    @property
    def tokenizer(self) -> Path:
        """The packed tokenizer."""
        return self.path / "tokenizer.pack"

    def write_description(self, architecture: ModelArchitecture, schemas: Mapping[str, ParameterSchema]) -> None:
        """Write the model's make-up, so that the run can go on, be scored and be exported without any hub."""
        scopes = {scope: {entry.name: entry.shape for entry in schema.entries} for scope, schema in schemas.items()}
        self.write_json(DESCRIPTION, {"architecture": asdict(architecture), "scopes": scopes})

    def read_description(self) -> tuple[ModelArchitecture, BySlot[ParameterSchema]]:
        """The model's architecture, and the schema of every scope, private ones included."""
        described = json.loads((self.path / DESCRIPTION).read_text(encoding="utf-8"))
        shapes = {
            scope: {name: tuple(shape) for name, shape in members.items()}
            for scope, members in described["scopes"].items()
        }
        schemas = BySlot({scope: ParameterSchema.of(members) for scope, members in shapes.items()})
        return ModelArchitecture(**described["architecture"]), schemas

    def write(self, path: Path, data: bytes) -> None:
        """Write a file whole or not at all."""
        temporary = path.with_name(f".{path.name}.partial")
        with temporary.open("wb") as file:
            file.write(data)
            file.flush()
            os.fsync(file.fileno())
        temporary.rename(path)
        sync_folder(path.parent)

    def write_json(self, name: str, value: object) -> Path:
        """Write a JSON file, indented, whole or not at all."""
        path = self.path / name
        self.write(path, (json.dumps(value, indent=2, allow_nan=False) + "\n").encode())
        return path

    def _hold(self) -> None:
        try:
            self._lock = (self.path / LOCK).open("w")
        except OSError as error:
            raise RunFolderError(
                f"run_dir: '{self.path}' cannot be written ({error.strerror}); choose another"
            ) from None
        try:
            fcntl.flock(self._lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError:
            self._lock.close()
            raise RunFolderError(f"run_dir: another coordinator works in '{self.path}'; stop it first") from None
