"""Tables from the Hugging Face hub; the package `datasets` is imported only when asked for, and runs no set's code."""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import dataclass
from functools import cached_property
from typing import Any

from client.data.columns import Table
from client.data.files import OFFICIAL_FOLDERS, SPLIT_NAMES
from client.data.sets import package_for, table_of
from common.errors import DataError, foreign_errors


@dataclass(frozen=True)
class HubSet:
    """A data set on the hub, or in a folder that is laid out like one."""

    name: str
    """Such as `org/set`."""
    config: str | None = None
    """One of its configurations; None: the only one."""
    revision: str | None = None
    """A commit, tag or branch; None: the newest."""
    train: str | None = None
    """The split to train on, which may be a slice such as `train[:80%]`; None: the one with the usual name."""
    validation: str | None = None
    """The same for scores."""
    test: str | None = None
    """The same for the test."""

    def __str__(self) -> str:
        return f"data set {self.name}" + (f"/{self.config}" if self.config else "")

    @cached_property
    def _builder(self) -> Any:
        package = package_for(str(self))
        with foreign_errors(self._unreachable):
            builder = package.load_dataset_builder(self.name, self.config, revision=self.revision)
            builder.download_and_prepare()
        return builder

    def _unreachable(self, error: Exception) -> DataError:
        reason = (str(error).strip().splitlines() or [""])[0][:200]
        remedy = "check name, config and network, or save it to a folder (save_to_disk) and name that in data.dir"
        return DataError(f"{self} could not be loaded ({type(error).__name__}: {reason}); {remedy}")

    def _split(self, split: str) -> str | None:
        """What the set calls a split, if it has it."""
        if named := getattr(self, split):
            return str(named)
        present: Collection[str] = self._builder.info.splits or ()
        return next((name for name in SPLIT_NAMES[split] if name in present), None)

    def has(self, split: str) -> bool:
        """Whether it has a split; its rows are not read."""
        return self._split(split) is not None

    def read(self, split: str) -> Table:
        """The table of a split.

        Raises:
            DataError: it has none, `datasets` is not installed, or the hub did not answer.
        """
        name, present = self._split(split), ", ".join(self._builder.info.splits or ())
        if name is None:
            remedy = f"name one in dataset.{split}"
            remedy += ", write data.split.validation, or val_samples: 0" if split == "validation" else ""
            raise DataError(f"{self} has no {split} split, but {present}; {remedy}")
        missing = DataError(f"{self}: split {name!r} cannot be read; present are {present}; change dataset.{split}")
        with foreign_errors(lambda error: missing):
            return table_of(self._builder.as_dataset(split=name), f"{self} {name}")


def read_glue(task: str, split: str) -> Table:
    """The train or validation split of a GLUE task; the test split has no labels and is never read.

    Raises:
        DataError: The task is not in GLUE, `datasets` is not installed, or the hub did not answer.
    """
    if task not in OFFICIAL_FOLDERS:
        raise DataError(f"task {task} is not in GLUE; choose one of {', '.join(OFFICIAL_FOLDERS)} or use files")
    package = package_for("data source glue")
    part = "validation_matched" if (task, split) == ("mnli", "validation") else split

    def unreachable(error: Exception) -> DataError:
        return DataError(
            f"glue/{task} could not be loaded from the Hugging Face hub ({type(error).__name__}); "
            "check the network or use files"
        )

    with foreign_errors(unreachable):
        rows = package.load_dataset("glue", task, split=part)
        columns = {name: list(rows[name]) for name in rows.column_names}
    return Table(f"glue/{task} {part}", columns, published=True)
