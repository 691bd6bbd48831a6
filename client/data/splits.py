"""Rows of a file that are held out of training: by shares, groups of rows whole, labels in the same proportions."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from client.data.examples import RawExamples
from common.errors import DataError
from common.seeds import derive_seed
from common.tasks import TaskDefinition

Split = Literal["train", "validation", "test"]
ScoredSplit = Literal["validation", "test"]
Places = NDArray[np.int64]
Sides = dict[Split, Places]
"""Places of rows, in ascending order, by the split that they belong to."""

TRAIN, TEST, VALIDATION = 0, 1, 2
_HELD_OUT: tuple[tuple[ScoredSplit, int], ...] = (("test", TEST), ("validation", VALIDATION))
_HASHES = float(2**63)


@dataclass(frozen=True)
class SplitRule:
    """What is held out of the training rows for splits that have no file of their own."""

    validation: float = 0.0
    """The share of the rows that is scored on in every round."""
    test: float = 0.0
    """The share that nobody reads but `--mode evaluate --split test`."""
    by: str | None = None
    """The column, or array, of whose values all rows are on one side."""
    stratify: bool = False
    """Whether labels have the same shares on all sides; of a regression, tenths of its scores."""

    def share(self, split: ScoredSplit) -> float:
        """Of a split."""
        return self.test if split == "test" else self.validation


def is_held_out(rule: SplitRule | None, has_file: Callable[[Split], bool], split: ScoredSplit) -> bool:
    """Whether a split's rows come from the training file."""
    return rule is not None and rule.share(split) > 0 and not has_file(split)


@dataclass(frozen=True)
class Divided:
    """The rows of a training file, divided."""

    sides: Sides
    """`train`, and the splits that are held out."""
    notes: tuple[str, ...] = ()


def divide(
    rule: SplitRule | None,
    has_file: Callable[[Split], bool],
    task: TaskDefinition,
    seed: int,
    rows: RawExamples,
    groups: Sequence[str] | None,
    origin: str,
) -> Divided:
    """Hold out what the rule says, of splits without a file of their own.

    Args:
        rule: None for nothing.
        has_file: whether a split has rows of its own.
        task: whose rows they are.
        seed: of the run. A group is on the same side at all clients and in all tasks with this seed.
        rows: of its training file.
        groups: the group of each row; None where rows have no columns.
        origin: of the rows, for messages.

    Raises:
        DataError: there are no groups where the rule needs them, or no row is left to train on.
    """
    held = {side: rule.share(split) for split, side in _HELD_OUT if rule and is_held_out(rule, has_file, split)}
    if rule is None or not held:
        return Divided({"train": np.arange(len(rows))})
    classes = task.type.classes(np.asarray(rows.labels)) if rule.stratify else np.zeros(len(rows), dtype=np.int64)
    if rule.by is None:
        order = np.random.Generator(np.random.PCG64(derive_seed(seed, task.name, "split"))).permutation(len(rows))
        whose, strata, hashes = np.arange(len(rows)), classes, np.argsort(order) / len(order)
    elif groups is None:
        raise DataError(f"{origin} has no column or array '{rule.by}'; name one that is there in data.split.by")
    else:
        names, whose = np.unique(np.array(groups, dtype=object), return_inverse=True)
        hashes = np.array([derive_seed(seed, "split", name) / _HASHES for name in names])
        strata = np.array([np.bincount(classes[whose == group]).argmax() for group in range(len(names))])
    if rule.by is not None and not rule.stratify:
        sides = _by_hash(hashes, held)
    else:
        sides = _by_share(strata, np.bincount(whose), hashes, held)
    return _told(sides[whose], held, origin)


def _told(sides: NDArray[np.int64], held: Mapping[int, float], origin: str) -> Divided:
    found: Sides = {"train": np.flatnonzero(sides == TRAIN)}
    found |= {split: np.flatnonzero(sides == side) for split, side in _HELD_OUT if side in held}
    if not len(found["train"]):
        raise DataError(f"{origin}: data.split leaves none of {len(sides)} rows to train on; lower its shares")
    empty = [split for split, places in found.items() if not len(places)]
    said = "{}: data.split: none of {} rows is for {}; there are too few, or too few groups of them"
    return Divided(found, tuple(said.format(origin, len(sides), split) for split in empty))


def _by_hash(hashes: NDArray[np.float64], held: Mapping[int, float]) -> NDArray[np.int64]:
    """The side of each group by its own hash in 0 to 1 alone: no other group and no other row can move it."""
    sides, low = np.full(len(hashes), TRAIN), 0.0
    for side, share in held.items():
        sides[(hashes >= low) & (hashes < low + share)] = side
        low += share
    return sides


def _by_share(
    strata: NDArray[np.int64], sizes: NDArray[np.int64], hashes: NDArray[np.float64], held: Mapping[int, float]
) -> NDArray[np.int64]:
    """The side of each unit of so many rows: units of a stratum in the order of their hashes, until a share is full.

    What rounding leaves over of one stratum goes to the next, so that the whole is right too. The last unit of a
    stratum is always to train on.
    """
    sides, order = np.full(len(strata), TRAIN), np.argsort(hashes, kind="stable")
    over = dict.fromkeys(held, 0.0)
    for stratum in np.unique(strata):
        units = order[strata[order] == stratum]
        rows, place = int(sizes[units].sum()), 0
        for side, share in held.items():
            due, taken = share * rows + over[side], 0
            while place < len(units) - 1 and taken + sizes[units[place]] / 2 <= due:
                sides[units[place]] = side
                taken += int(sizes[units[place]])
                place += 1
            over[side] = min(max(due - taken, -0.5), 0.5)
    return sides
