"""The rows on which MOCHA is measured, as they are split and scored: one task for each field or school."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from common.seeds import derive_seed
from common.tasks.formulas import area

Matrix = NDArray[np.float64]


@dataclass(frozen=True)
class Rows:
    """One task's rows."""

    x: Matrix
    y: Matrix

    def at(self, places: NDArray[np.intp]) -> Rows:
        """These of them."""
        return Rows(self.x[places], self.y[places])

    def scaled(self, others: Rows) -> Rows:
        """With columns in which those of the others have mean 0 and deviation 1."""
        mean, width = others.x.mean(axis=0), others.x.std(axis=0)
        return Rows((self.x - mean) / np.where(width > 0.0, width, 1.0), self.y)


def together(rows: Sequence[Rows]) -> Rows:
    """The rows of all tasks as one task's."""
    return Rows(np.concatenate([r.x for r in rows]), np.concatenate([r.y for r in rows]))


@dataclass(frozen=True)
class Problem:
    """What is measured, and how rows are split."""

    name: str
    metric: str
    loss: str
    share: float
    """Of a task's rows, to train on; 0: all but every fourth."""
    together: bool
    """Whether columns are standardised by the rows of all tasks, which then mean the same in each."""
    strengths: tuple[float, ...]
    """What lambda is chosen from."""

    @property
    def has_classes(self) -> bool:
        """Whether labels are classes."""
        return self.metric == "auc"

    def split(self, tasks: Sequence[Rows], shuffle: int) -> tuple[list[Rows], list[Rows]]:
        """Training and test rows, columns standardised by training rows."""
        sides = []
        for place, rows in enumerate(tasks):
            rng = np.random.Generator(np.random.PCG64(derive_seed(shuffle, self.name, place)))
            order = rng.permutation(len(rows.y)) if self.share else np.arange(len(rows.y))
            count = round(self.share * len(order))
            places = (order[:count], order[count:]) if self.share else (order[order % 4 != 3], order[order % 4 == 3])
            sides.append((rows.at(places[0]), rows.at(places[1])))
        everybody = together([train for train, _ in sides])
        scaled = [
            [rows.scaled(everybody if self.together else train) for rows in (train, test)] for train, test in sides
        ]
        return [train for train, _ in scaled], [test for _, test in scaled]

    def unit(self, rows: Rows) -> tuple[float, float]:
        """Mean and deviation of training scores; classes stay as they are."""
        return (0.0, 1.0) if self.has_classes else (float(rows.y.mean()), float(rows.y.std()) or 1.0)

    def score(self, scores: Sequence[Matrix], rows: Sequence[Rows]) -> float:
        """Mean area under the ROC curve over tasks that have both classes, or the root of the mean squared error."""
        if self.has_classes:
            areas = [area(z, r.y.astype(np.int64)) for z, r in zip(scores, rows, strict=True)]
            return float(np.mean([found for found in areas if found is not None]))
        errors = np.concatenate([z - r.y for z, r in zip(scores, rows, strict=True)])
        return float(np.sqrt(np.mean(errors**2)))

    def better(self, score: float) -> float:
        """The larger, the better."""
        return score if self.has_classes else -score


def read(path: Path) -> list[Rows]:
    """The rows of each task of a file."""
    with np.load(path) as file:
        x, y, task = file["x"].astype(np.float64), file["y"].astype(np.float64), file["task"]
    return [Rows(x[task == number], y[task == number]) for number in np.unique(task)]


def derive_folds(rows: Rows, task: int, count: int) -> NDArray[np.intp]:
    """The fold of each row; classes are spread evenly over them."""
    rng = np.random.Generator(np.random.PCG64(derive_seed(0, "folds", task)))
    shuffled = rng.permutation(len(rows.y))
    order = shuffled[np.argsort(rows.y[shuffled], kind="stable")]
    folds = np.empty(len(order), dtype=np.intp)
    folds[order] = np.arange(len(order)) % count
    return folds
