"""Where a client's rows come from: the section `data`."""

from __future__ import annotations

from typing import Annotated, Any, Literal

from pydantic import model_validator

from common.augmentation import Augmentation
from common.config.choices import Chosen
from common.config.values import Location, Partition, Section, Share, Text
from common.methods.choice import table


def files_named(body: dict[str, Any]) -> dict[str, Any]:
    """A section `data` of a person who names folders."""
    return {**body, "source": "files"} if body.get("source", "builtin") in ("builtin", "given") else body


class SplitSection(Section):
    """Which rows of a training file are held out, where no validation file or no test file lies beside it.

    With `by` a row's side depends on its group and `run.seed` alone, so that no group is on two sides, at no client and
    in no task, and further rows move none. With `stratify` too, groups are taken label by label until the shares are
    full, so that further rows may move some.
    """

    validation: Share = 0.0
    """share of the rows to score on in every round, 0 to below 1"""
    test: Share = 0.0
    """share that nothing reads but --mode evaluate --split test, 0 to below 1"""
    by: Text | None = None
    """column (of an .npz: array) of which all rows with one value are on one side, such as patient; it is no feature"""
    stratify: bool = False
    """true: labels have the same shares on every side (of a regression, tenths of the scores)"""


class DataSection(Section):
    """Where a client's rows come from; `partition` i/n takes one of n parts.

    `dir` turns sources `builtin` and `given` into `files`, so that a folder is all that a person has to name.
    `statistics` is for rows of numbers.
    """

    source: Literal["builtin", "glue", "hub", "files", "given"] = "builtin"
    """builtin (generated texts or numbers) | glue (GLUE's sets from the hub) | hub (the set that a task names as
    dataset) | files (dir) | given (by Python code)"""
    dir: Location | None = None
    """folder with your files; turns builtin into files"""
    partition: Partition | None = None
    """this client's part of the rows, e.g. 2/5: the second of five parts"""
    split: SplitSection = SplitSection.model_construct()
    """what to hold out of the training rows, where there is no file of it"""
    statistics: Literal["none", "site", "federation"] = "none"
    """by what rows of numbers are standardised: none | site (this client's training rows) | federation (those of all
    clients, pooled before round 1 and rounded)"""
    augment: Annotated[Augmentation, Chosen(table(Augmentation))] | None = None
    """how images to train on are changed in every epoch; null: not at all"""

    @model_validator(mode="before")
    @classmethod
    def _dir_means_files(cls, body: Any) -> Any:
        named = isinstance(body, dict) and body.get("dir") is not None
        return files_named(body) if named else body

    @property
    def part(self) -> tuple[int, int] | None:
        """`partition` as (i, n) with 1 <= i <= n, or None for all rows."""
        if self.partition is None:
            return None
        index, parts = self.partition.split("/")
        return int(index), int(parts)
