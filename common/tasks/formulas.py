"""Formulas that several kinds of tasks share; definitions are those of scikit-learn and SciPy with their defaults."""

from __future__ import annotations

from collections.abc import Sequence
from math import sqrt

import numpy as np
from numpy.typing import NDArray

Array = NDArray[np.float64]


def label_counts(counts: Sequence[NDArray[np.int64]]) -> tuple[int, ...]:
    """Hits, true and predicted of all labels, (labels,) each, label by label."""
    return tuple(np.stack(counts, axis=1).ravel().tolist())


def moments(p: Array, y: Array) -> tuple[float, ...]:
    """The moments of predictions and targets, (examples,) each: means first, then sums of what is left."""
    mean_p, mean_y = _mean_of(p), _mean_of(y)
    a, b = p - mean_p, y - mean_y
    sums = (float((a * a).sum()), float((b * b).sum()), float((a * b).sum()), float(((p - y) ** 2).sum()))
    return (mean_p, mean_y, *sums)


def spearman(p: Array, y: Array) -> float | None:
    """Pearson correlation of the ranks, ties sharing their mean rank."""
    if len(p) < 2:
        return None
    a, b = _ranks(p), _ranks(y)
    a, b = a - a.mean(), b - b.mean()
    scale = sqrt(float((a * a).sum() * (b * b).sum()))
    return float((a * b).sum()) / scale if scale > 0 else None


def area(scores: Array, labels: NDArray[np.int64]) -> float | None:
    """Area under the ROC curve from the Mann-Whitney rank sum; None unless there are both classes, 0 and 1."""
    positives = int((labels == 1).sum())
    negatives = len(labels) - positives
    if not positives or not negatives:
        return None
    rank_sum = float(_ranks(scores)[labels == 1].sum())
    return (rank_sum - positives * (positives + 1) / 2) / (positives * negatives)


def drawn_spearman(p: Array, y: Array, counts: NDArray[np.int64]) -> Array:
    """`spearman` of many draws of the examples, (draws,): `counts`, (draws, examples), says how often each is in one.

    NaN where it is not defined.
    """
    n = np.maximum(counts.sum(axis=1), 1)
    a, b = (
        ranks - ((ranks * counts).sum(axis=1) / n)[:, None]
        for ranks in (_drawn_ranks(p, counts), _drawn_ranks(y, counts))
    )
    scale = np.sqrt((counts * a * a).sum(axis=1) * (counts * b * b).sum(axis=1))
    return _divided((counts * a * b).sum(axis=1), scale)


def drawn_area(scores: Array, labels: NDArray[np.int64], counts: NDArray[np.int64]) -> Array:
    """`area` of many draws, as of `drawn_spearman`."""
    positives = counts * (labels == 1)
    number = positives.sum(axis=1)
    rank_sum = (positives * _drawn_ranks(scores, counts)).sum(axis=1)
    return _divided(rank_sum - number * (number + 1) / 2, number * (counts.sum(axis=1) - number))


def _drawn_ranks(values: Array, counts: NDArray[np.int64]) -> Array:
    """Of each example in each draw, (draws, examples)."""
    _, place = np.unique(values, return_inverse=True)
    order = np.argsort(place, kind="stable")
    starts = np.flatnonzero(np.diff(place[order], prepend=-1))
    totals = np.add.reduceat(counts[:, order], starts, axis=1)
    ranks: Array = (np.cumsum(totals, axis=1) - (totals - 1) / 2)[:, place]
    return ranks


def _divided(part: Array, whole: Array) -> Array:
    found: Array = np.divide(part, whole, out=np.full(len(whole), np.nan), where=whole > 0)
    return found


def _mean_of(values: Array) -> float:
    """The mean, exact where all values are equal."""
    first = float(values[0]) if len(values) else 0.0
    return first + float((values - first).sum()) / max(len(values), 1)


def _ranks(values: Array) -> Array:
    """Ranks from 1, ties sharing the mean of their places."""
    _, place, counts = np.unique(values, return_inverse=True, return_counts=True)
    ranks: Array = (np.cumsum(counts) - (counts - 1) / 2)[place]
    return ranks
