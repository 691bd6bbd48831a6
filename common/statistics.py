"""What travels of a set of predictions, and how the sets of several clients are pooled.

Counts and moments are then those of the pooled predictions: counts exactly, moments to rounding, whatever the order of
the clients. Spearman and AUC need the examples themselves, so they are example-weighted means over clients and carry
`_mean` in their names.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from math import fsum

COUNTS = 3
"""Numbers per label: how often it was rightly predicted, was true, was predicted."""
MOMENTS = 6
"""Numbers of a regression."""
LARGEST = 1e100
"""Moments from clients are at most this large, so that products of a few of them are still finite."""
LARGEST_LOSS = (2.0 - 2.0**-23) * 2.0**127
"""Of one example: losses are computed in float32."""
ROUNDING = 1e-9


@dataclass(frozen=True)
class TaskStatistics:
    """What is kept of one set of predictions.

    `right` are the examples that were predicted rightly as a whole: the class, all labels of a multi-label row, the
    hidden word of a masked task, whose examples are hidden words. `labels` holds `COUNTS` numbers per label, one label
    after the other: predicted and true, true, predicted. They give accuracy, F1 and Matthews exactly, at a cost that
    grows with the labels, where a confusion matrix grows with their square. `moments` of a regression with predictions
    p and targets y are mean(p), mean(y), sum((p - mean p)^2), sum((y - mean y)^2), sum((p - mean p)(y - mean y)) and
    sum((p - y)^2): centred, so that scores far from zero lose nothing. `means` are (metric, value, examples) that can
    only be averaged.
    """

    examples: int
    loss_sum: float
    right: int = 0
    labels: tuple[int, ...] = ()
    moments: tuple[float, ...] = ()
    means: tuple[tuple[str, float, int], ...] = ()
    sums: tuple[tuple[str, tuple[float, ...]], ...] = ()
    """By name, what metrics need that the task asks for (`common.tasks.metric_sums`); they are added up."""
    noised: bool = False
    """Whether the counts have noise; there is then nothing else, and `loss_sum` is 0 and means nothing."""

    @property
    def by_label(self) -> tuple[tuple[int, ...], ...]:
        """Hits, true and predicted, (labels,) each."""
        return tuple(self.labels[at::COUNTS] for at in range(COUNTS))

    @property
    def is_possible(self) -> bool:
        """Whether counts and loss are those of some examples, whatever the task."""
        n = self.examples
        return n > 0 and 0.0 <= self.loss_sum <= n * LARGEST_LOSS and 0 <= self.right <= n

    def has_counts_of(self, labels: int) -> bool:
        """Whether there are counts of every label and no moments, and no label was hit more often than it was there."""
        if len(self.labels) != COUNTS * labels or self.moments:
            return False
        rows = zip(*self.by_label, strict=True)
        return all(0 <= hits <= min(true, said) and max(true, said) <= self.examples for hits, true, said in rows)

    def has_at_most(self, mean: str, low: float, high: float) -> bool:
        """Whether the only mean, if any, is this metric over all examples, and lies in its range."""
        return len(self.means) <= 1 and all(
            name == mean and examples == self.examples and low - ROUNDING <= value <= high + ROUNDING
            for name, value, examples in self.means
        )


def mean_of(name: str, value: float | None, examples: int) -> tuple[tuple[str, float, int], ...]:
    """The `means` of one metric, none where it is not defined."""
    return () if value is None else ((name, value, examples),)


def ratio(part: float, whole: float) -> float:
    """Part of a whole, 0 where there is none."""
    return float(part / whole) if whole else 0.0


def merge(parts: Iterable[TaskStatistics]) -> TaskStatistics:
    """The statistics of the pooled rows of several clients; the same numbers in whatever order they are given.

    Moments by Chan, Golub and LeVeque (1979); floating-point sums are exactly rounded (`math.fsum`).
    """
    items = list(parts)
    means: dict[str, list[tuple[float, int]]] = {}
    for name, value, examples in (mean for item in items for mean in item.means):
        means.setdefault(name, []).append((value, examples))
    sums: dict[str, list[tuple[float, ...]]] = {}
    for name, values in (each for item in items for each in item.sums):
        sums.setdefault(name, []).append(values)
    weights = {name: sum(count for _, count in found) for name, found in means.items()}
    return TaskStatistics(
        sum(item.examples for item in items),
        fsum(item.loss_sum for item in items),
        sum(item.right for item in items),
        tuple(map(sum, zip(*(item.labels for item in items), strict=True))),
        _pooled([(item.examples, item.moments) for item in items if item.moments]),
        tuple((n, fsum(v * k for v, k in means[n]) / weights[n], weights[n]) for n in sorted(means)),
        tuple((name, tuple(map(fsum, zip(*sums[name], strict=True)))) for name in sorted(sums)),
        any(item.noised for item in items),
    )


def _pooled(parts: Sequence[tuple[int, tuple[float, ...]]]) -> tuple[float, ...]:
    """Moments of the union of rows from moments and numbers of rows."""
    total = sum(count for count, _ in parts)
    if not total:
        return ()
    if len(parts) == 1:
        return parts[0][1]
    p, y = (fsum(count * moments[at] for count, moments in parts) / total for at in (0, 1))
    shifts = [(count, moments[0] - p, moments[1] - y) for count, moments in parts]
    between = ([n * a * a for n, a, _ in shifts], [n * b * b for n, _, b in shifts], [n * a * b for n, a, b in shifts])
    spreads = (
        fsum([*(moments[at] for _, moments in parts), *more]) for at, more in zip((2, 3, 4), between, strict=True)
    )
    return (p, y, *spreads, fsum(moments[5] for _, moments in parts))
