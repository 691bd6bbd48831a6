"""Counts of a classification that may leave although they are of single rows: with noise, and no more than counts.

Of label k there are hits h (true and predicted), misses m (true, something else predicted) and false ones f (something
else true, predicted). A row that is predicted rightly adds 1 to one h; any other row adds 1 to one m and 1 to one f.
So h gets noise of deviation s, and m and f each of sqrt(2) s: in units of its noise the first row is 1/s long, the
second sqrt(1/(2 s^2) + 1/(2 s^2)) = 1/s as well. All counts together are one Gaussian mechanism of multiplier s, for a
row more or less. The number of rows is public and travels as it is; losses, areas and other sums do not travel.

What is made of the noised counts reads no row: they are moved to the nearest whole numbers that some predictions have.
"""

from __future__ import annotations

from math import sqrt

import numpy as np
from numpy.typing import NDArray

from client.training.row_noise import RowSecret
from common.privacy.noise import CellNoise
from common.statistics import TaskStatistics

_HALVINGS = 200


def noised_counts(exact: TaskStatistics, secret: RowSecret, label: str, deviation: float) -> TaskStatistics:
    """Statistics with noise, of predictions that there could have been; everything but counts is left out.

    Args:
        exact: of a classification, over at least one row.
        secret: of the noise; its digest must be another one where the counts are others.
        label: no two sets of counts of one digest share one.
        deviation: s, in rows.
    """
    hits, true, said = np.array(exact.by_label, dtype=np.float64)

    def noised(name: str, counts: NDArray[np.float64], factor: float) -> NDArray[np.float64]:
        return CellNoise(secret.key, f"{name}|{label}", secret.digest, factor * deviation).add(0, counts)

    apart = sqrt(2.0)
    found = (noised("hits", hits, 1.0), noised("missed", true - hits, apart), noised("false", said - hits, apart))
    return _possible(exact.examples, *found)


def _possible(
    rows: int, hits: NDArray[np.float64], missed: NDArray[np.float64], false: NDArray[np.float64]
) -> TaskStatistics:
    """The counts of some predictions of so many rows, near these numbers: see `Classification.fits`.

    Every row is a hit or missed once; what is missed of a label is a false one of another label.
    """
    labels = len(hits)
    placed = whole_near(np.concatenate([hits, missed]), rows, np.full(2 * labels, rows))
    right, wrong = placed[:labels], placed[labels:]
    total = int(wrong.sum())
    others = whole_near(false, total, total - wrong)
    counts = np.stack([right, right + wrong, right + others], axis=1)
    return TaskStatistics(rows, 0.0, int(right.sum()), tuple(counts.ravel().tolist()), noised=True)


def whole_near(values: NDArray[np.float64], total: int, most: NDArray[np.int64]) -> NDArray[np.int64]:
    """Whole numbers from 0 to `most` with this sum, which `most` allows: near to `values`, (n,).

    All values are lowered by the same number, which gives the nearest numbers with the sum; what rounding down leaves
    goes to the largest fractions.
    """
    low, high = float((values - most).min()), float(values.max()) + 1.0
    for _ in range(_HALVINGS):
        middle = (low + high) / 2
        low, high = (middle, high) if np.clip(values - middle, 0, most).sum() >= total else (low, middle)
    nearest = np.clip(values - high, 0, most)
    found = np.floor(nearest).astype(np.int64)
    for place in np.argsort(found - nearest, kind="stable").tolist() * 2:
        if found.sum() >= total:
            break
        found[place] += found[place] < most[place]
    return found
