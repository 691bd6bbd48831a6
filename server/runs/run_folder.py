"""The run folder: `runs/<name>/` with the journal, the model versions, the report and the exact configuration."""

from __future__ import annotations

import fcntl
import json
from collections.abc import Mapping
from dataclasses import asdict
from pathlib import Path
from types import MappingProxyType

from common.errors import RunFolderError
from common.orders import ModelArchitecture
from common.parameters.schema import ElementType, ParameterSchema
from common.parameters.scope import ByTemplate
from server.core.readers import Unread
from server.storage.files import write_whole
from server.storage.mending import log_of
from server.storage.models import MODELS

JOURNAL = "journal.sqlite"
CONFIG = "config.yaml"
DESCRIPTION = "model.json"
TOKENIZER = "tokenizer.pack"
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
        if (path / JOURNAL).exists() or log_of(path / JOURNAL).exists():
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
        folder = cls(path)
        if not folder.journal.is_file() and not log_of(folder.journal).is_file():
            folder.require_untrained()
            raise RunFolderError(f"run_dir: '{path}' holds no run; check the path or leave --resume out")
        return folder

    @classmethod
    def exists(cls, path: Path) -> bool:
        """Whether a folder holds a run, or what is left of one."""
        folder = cls(path)
        return folder.journal.is_file() or log_of(folder.journal).is_file() or bool(folder._trained())

    def _trained(self) -> list[str]:
        """The files of versions that a round has made, the newest last."""
        numbers = (int(file.stem) for file in self.models.glob("*.safetensors") if file.stem.isdigit())
        return [f"{MODELS}/{number}.safetensors" for number in sorted(numbers) if number > 0]

    def require_untrained(self) -> None:
        """Check that a run without a journal may begin here.

        Raises:
            RunFolderError: there are trained models, which a new run would replace.
        """
        if found := self._trained():
            raise RunFolderError(
                f"run_dir: '{self.path}' holds {found[-1]} but no journal that knows it; put {JOURNAL} and "
                f"{log_of(self.journal).name} back from a backup, or choose another --run_dir for a new run"
            )

    def drop_after(self, version: int) -> None:
        """Delete files of versions that were made and never published, such as by a coordinator that died then."""
        for file in self.models.glob("*.safetensors"):
            number = file.stem.rpartition("-")[2]
            if number.isdigit() and int(number) > version:
                file.unlink()

    @property
    def journal(self) -> Path:
        """The SQLite file."""
        return self.path / JOURNAL

    @property
    def models(self) -> Path:
        """The folder of model versions."""
        return self.path / MODELS

    @property
    def config(self) -> Path:
        """The resolved configuration of the run."""
        return self.path / CONFIG

    @property
    def metrics(self) -> Path:
        """A line per round."""
        return self.path / "metrics.jsonl"

    @property
    def tokenizer(self) -> Path:
        """The packed tokenizer."""
        return self.path / TOKENIZER

    @staticmethod
    def description(
        architecture: ModelArchitecture, schemas: Mapping[str, ParameterSchema], unread: Unread = MappingProxyType({})
    ) -> bytes:
        """The model's make-up, so that the run can go on, be scored and be exported without any hub."""
        scopes = {
            scope: {"dtype": schema.dtype.value, "shapes": {entry.name: entry.shape for entry in schema.entries}}
            for scope, schema in schemas.items()
        }
        known = {"unread": {task: list(names) for task, names in unread.items()}} if unread else {}
        return _json({"architecture": asdict(architecture), "scopes": scopes, **known})

    def read_unread(self) -> Unread:
        """The parameters that tasks do not read, in runs whose means are over those who do."""
        described = json.loads((self.path / DESCRIPTION).read_text(encoding="utf-8"))
        return {task: frozenset(names) for task, names in described.get("unread", {}).items()}

    def read_description(self) -> tuple[ModelArchitecture, ByTemplate[ParameterSchema]]:
        """The model's architecture, and the schema of every scope, private ones included."""
        described = json.loads((self.path / DESCRIPTION).read_text(encoding="utf-8"))
        schemas = ByTemplate[ParameterSchema]()
        for scope, layout in described["scopes"].items():
            shapes = {name: tuple(shape) for name, shape in layout["shapes"].items()}
            schemas[scope] = ParameterSchema.of(shapes, ElementType(layout["dtype"]))
        return ModelArchitecture(**described["architecture"]), schemas

    def write(self, path: Path, data: bytes) -> None:
        """Write a file whole or not at all.

        Raises:
            RunFolderError: the disk does not take it.
        """
        write_whole(path, [data])

    def write_json(self, name: str, value: object) -> Path:
        """Write a JSON file, indented, whole or not at all."""
        path = self.path / name
        self.write(path, _json(value))
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

    def close(self) -> None:
        """Let another coordinator have the folder."""
        self._lock.close()


def _json(value: object) -> bytes:
    return (json.dumps(value, indent=2, allow_nan=False) + "\n").encode()
