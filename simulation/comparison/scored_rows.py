"""The rows that a run is scored on, one by one, so that scores of any draw of them can be told."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, replace
from itertools import chain
from math import isnan
from pathlib import Path
from zipfile import BadZipFile

import numpy as np
from numpy.typing import NDArray

from common.errors import RunFolderError
from common.statistics import TaskStatistics
from common.tasks import TaskDefinition
from server.reporting.values import Scores

Float64 = NDArray[np.float64]
Counts = NDArray[np.int64]
"""How often each row counts, (draws, rows)."""


@dataclass(frozen=True)
class ScoredRows:
    """The rows of a task, each answered by the model of the client that holds it."""

    ids: NDArray[np.uint64]
    """(rows,), the same for the same row and label in every run; equal rows are counted through."""
    clients: NDArray[np.str_]
    """(rows,)"""
    numbers: Float64
    """`TaskStatistics` of each row alone, (rows, numbers)."""
    outputs: Float64
    """(rows, outputs), and with them `targets` (rows, ...): only where a metric of the task needs them."""
    targets: Float64

    def of(self, client: str) -> ScoredRows:
        """Those of one client."""
        mine = np.flatnonzero(self.clients == client)
        outputs, targets = (each[mine] if len(each) else each for each in (self.outputs, self.targets))
        return ScoredRows(self.ids[mine], self.clients[mine], self.numbers[mine], outputs, targets)

    def scores(self, task: TaskDefinition) -> Scores:
        """What all rows together come to."""
        once = np.ones((1, len(self.ids)), np.int64)
        total = next(_totals(task, self.numbers, once))
        if task.type.rank_metric in task.metrics:
            value, examples = float(self._by_rank(task, once)[0]), len(self.ids)
            means = () if isnan(value) else ((task.type.rank_metric, value, examples),)
            total = replace(total, means=means)
        return task.summarise(total)

    def drawn(self, task: TaskDefinition, counts: Counts) -> Float64:
        """The primary metric of each draw, (draws,), NaN where it is not defined."""
        if task.metrics[0] == task.type.rank_metric:
            return self._by_rank(task, counts)
        values = (task.summarise(total)[task.metrics[0]] for total in _totals(task, self.numbers, counts))
        return np.array([np.nan if value is None else value for value in values])

    def _by_rank(self, task: TaskDefinition, counts: Counts) -> Float64:
        """The kind's metric of ranks: the mean of those of the clients, weighted by their rows; (draws,)."""
        total, weights = np.zeros(len(counts)), np.zeros(len(counts))
        for client in np.unique(self.clients):
            mine = np.flatnonzero(self.clients == client)
            own = counts[:, mine]
            values = task.type.rank_scores(self.outputs[mine], self.targets[mine], own)
            examples = np.where(np.isnan(values), 0, own.sum(axis=1))
            total += np.nan_to_num(values) * examples
            weights += examples
        found: Float64 = np.divide(total, weights, out=np.full(len(counts), np.nan), where=weights > 0)
        return found

    def save(self, path: Path) -> None:
        """Write all of it, or nothing."""
        path.parent.mkdir(exist_ok=True)
        temporary = path.with_name(f".{path.name}.partial")
        with temporary.open("wb") as file:
            np.savez(file, self.ids, self.clients, self.numbers, self.outputs, self.targets)
        temporary.rename(path)

    @classmethod
    def load(cls, path: Path) -> ScoredRows:
        """Read what `save` wrote.

        Raises:
            RunFolderError: the file is damaged.
        """
        try:
            with np.load(path, allow_pickle=False) as found:
                return cls(*(found[f"arr_{number}"] for number in range(5)))
        except (OSError, EOFError, ValueError, KeyError, BadZipFile) as error:
            raise RunFolderError(f"run_dir: '{path}' cannot be read ({error}); remove it, it is made anew") from None


def numbered(digests: NDArray[np.uint64]) -> NDArray[np.uint64]:
    """The `ids` of rows with these digests: of equal ones the second gets the next larger number, and so on."""
    order = np.argsort(digests, kind="stable")
    ordered = digests[order]
    starts = np.flatnonzero(np.concatenate([[True], ordered[1:] != ordered[:-1]]))
    repeats = np.arange(len(ordered)) - np.repeat(starts, np.diff([*starts, len(ordered)]))
    found = np.empty_like(digests)
    found[order] = ordered + repeats.astype(np.uint64)
    return found


def numbers_of(statistics: TaskStatistics) -> list[float]:
    """One row's statistics as `numbers` have them."""
    row = statistics
    return [row.examples, row.loss_sum, row.right, *row.labels, *row.moments, *chain(*(each for _, each in row.sums))]


def _totals(task: TaskDefinition, numbers: Float64, counts: Counts) -> Iterator[TaskStatistics]:
    """What the rows of each draw come to, without metrics that need all rows at once."""
    empty = task.type.score(task, (), np.empty(0, np.int64))  # says which number is what
    first = 3 + len(empty.labels)
    last = first + len(empty.moments)
    drawn = counts.astype(np.float64)
    sums = (drawn @ numbers).tolist()
    moments = _pooled(numbers[:, 0], numbers[:, first:last], drawn).tolist() if empty.moments else [()] * len(counts)
    cuts = np.cumsum([last, *(len(values) for _, values in empty.sums)]).tolist()
    for row, pooled in zip(sums, moments, strict=True):
        named = ((n, tuple(row[a:b])) for (n, _), a, b in zip(empty.sums, cuts, cuts[1:], strict=False))
        labels = tuple(map(round, row[3:first]))
        yield TaskStatistics(round(row[0]), row[1], round(row[2]), labels, tuple(pooled), sums=tuple(named))


def _pooled(examples: Float64, moments: Float64, drawn: Float64) -> Float64:
    """The moments of each draw, (draws, moments), from those of single rows; see `common.statistics.merge`."""
    centre = np.average(moments[:, :2], axis=0, weights=np.maximum(examples, 1e-300))
    p, y = (moments[:, :2] - centre).T
    total = np.maximum(drawn @ examples, 1.0)
    mean_p, mean_y = (drawn @ (examples * each) / total for each in (p, y))
    squares = np.stack([p * p, y * y, p * y]) * examples + moments[:, 2:5].T
    about = drawn @ squares.T - np.stack([mean_p**2, mean_y**2, mean_p * mean_y], axis=1) * total[:, None]
    about[:, :2] = np.maximum(about[:, :2], 0.0)
    means = np.stack([mean_p, mean_y], axis=1) + centre
    return np.concatenate([means, about, (drawn @ moments[:, 5])[:, None]], axis=1)
