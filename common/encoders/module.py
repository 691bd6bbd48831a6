"""A module of a person's own, from a file that both sides have: its code never travels."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from common.encoders.row import ArrayEncoder, row_problems
from common.errors import ConfigError, ModelError

if TYPE_CHECKING:
    from common.inputs.kind import Encoder

_TRUSTED: dict[str, Path] = {}
"""Files that this process may run, by the SHA-256 of what was in them when its configuration named them."""


@dataclass(frozen=True)
class ModuleEncoder(ArrayEncoder):
    """Any torch module from a batch of rows to vectors (rows, hidden), from a file of your own.

    The description has the file's SHA-256 in place of its path, and each side runs its own file if that is the same.
    """

    name = "module"
    own_code = True

    file: str
    """Python file that defines the class; every client names its own copy, which must be the same"""
    class_: str
    """the class, a torch.nn.Module"""
    shape: tuple[int, ...]
    """of a row: [features], [channels, height, width] or [length, channels]"""
    reads: Literal["numbers", "images", "sequences"] = "numbers"
    """what rows are: numbers | images | sequences"""
    args: Mapping[str, Any] = field(default_factory=dict)
    """keyword arguments of the class"""
    sha256: str = ""
    """of the file, for those who want to pin it; else what the file has"""

    def trusted(self) -> ModuleEncoder:
        """The same with the SHA-256 of its file, which this process may run from now on.

        Raises:
            ConfigError: the file cannot be read, or is not the one that is pinned.
        """
        path = Path(self.file)
        try:
            digest = hashlib.sha256(path.read_bytes()).hexdigest()
        except OSError as error:
            raise ConfigError(
                f"model.module.file: '{self.file}' cannot be read: {error.strerror}; correct it"
            ) from None
        if self.sha256 not in ("", digest):
            raise ConfigError(f"model.module.sha256: '{self.file}' has {digest}; use the file that is meant")
        _TRUSTED[digest] = path.resolve()
        return replace(self, sha256=digest)

    def allow(self) -> None:
        """See `ArrayEncoder`."""
        self.trusted()

    def describe(self) -> str:
        """See `ArrayEncoder`."""
        values = json.loads(super(ModuleEncoder, self.trusted()).describe())
        return json.dumps({**values, "file": ""}, sort_keys=True)

    def build(self) -> Encoder:
        """See `ArrayEncoder`.

        Raises:
            ModelError: this process has no such file, or the file does not define such a module.
        """
        path = _TRUSTED.get(self.sha256)
        if path is None:
            have = ", ".join(f"'{known}' with {digest[:16]}" for digest, known in _TRUSTED.items()) or "none"
            raise ModelError(
                f"the model is class '{self.class_[:80]}' of a file with SHA-256 {self.sha256[:16]}..., and the file "
                f"here (model.module.file) is {have}; name the same file"
            )
        from common.models.own_module import load_module

        return load_module(path, self.sha256, self.class_, self.args, self.shape)

    def problems(self) -> list[str]:
        """See `Row`."""
        found = row_problems(self.reads, self.shape)
        return found if self.class_.isidentifier() else [*found, f"class: '{self.class_}' is no name of a class"]


def trusted_files() -> Mapping[str, Path]:
    """What this process may run, for processes that work for it."""
    return dict(_TRUSTED)


def trust(files: Mapping[str, Path]) -> None:
    """Let this process run what the one may that it works for."""
    _TRUSTED.update(files)
