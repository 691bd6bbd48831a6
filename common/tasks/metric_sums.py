"""Metrics of pooled predictions from sums that travel only where a task names such a metric: a row each.

Sums of clients are added up, so that each metric is that of all predictions together: exactly, or that of scores that
are rounded to a bin. Definitions are scikit-learn's where it has the metric.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from math import isfinite, sqrt
from typing import TYPE_CHECKING, ClassVar, TypeAlias

from common.statistics import ROUNDING, TaskStatistics, ratio

if TYPE_CHECKING:  # whoever asks for a status names metrics and computes none
    import numpy as np
    from numpy.typing import NDArray

Float64: TypeAlias = "NDArray[np.float64]"
Values = tuple[float, ...]

SCORE_BINS = 256
"""Of each class."""
_FINE, _WIDEST = 8.0, 64.0
"""Bins of scores are as wide as 1 / 8 per unit of asinh near 0, and grow with the score; the last ones begin at 64."""
RECALL = "recall_at_fpr_0.01"
NEGATIVES_PER_FALSE_ALARM = 100
TOP = 3
CONFIDENCE_BINS = 15


class MetricSums(ABC):
    """What is added up of predictions for one or several metrics."""

    name: ClassVar[str]
    """On the wire and in the journal."""
    metrics: ClassVar[tuple[str, ...]]
    size: ClassVar[int]
    """How many numbers."""

    def is_defined(self, labels: Sequence[str]) -> bool:
        """Whether the metrics are defined with these labels."""
        return True

    @abstractmethod
    def measure(self, outputs: Float64, targets: Float64) -> Values:
        """The sums of outputs (examples, task.outputs) and targets (examples,)."""

    @abstractmethod
    def fit(self, values: Values, statistics: TaskStatistics) -> bool:
        """Whether so many finite numbers can have been measured together with these statistics."""

    def nearest(self, values: Values, statistics: TaskStatistics) -> Values:
        """Sums that are rounded, moved to where these statistics allow them; counts are whole as they come."""
        return values

    @abstractmethod
    def summary(self, values: Values, examples: int) -> Mapping[str, float | None]:
        """The metrics; None where one is not defined."""


class ScoreHistogram(MetricSums):
    """How many rows of either class have a score in each bin; the score is the difference of the two outputs.

    `auc` and `pr_auc` are roc_auc_score and average_precision_score of scikit-learn if the rows of each bin are evenly
    mixed. With shares p and n of the positives and the negatives in each bin, `auc` is at most sum(p n) / 2 beside that
    of the scores themselves. With a positives and b negatives in a bin and A and B in all higher ones, `pr_auc` is at
    most sum(p ((A + a) / (A + a + B) - (A + 1) / (A + 1 + B + b))) beside. `recall_at_fpr_0.01` is the largest recall
    of roc_curve at a false positive rate of at most 0.01, to p of the one bin in which the rate passes that: bins of
    scores far from 0 are wide, so this can be some hundredths.
    """

    name = "scores"
    metrics = ("auc", "pr_auc", RECALL)
    size = 2 * SCORE_BINS

    def is_defined(self, labels: Sequence[str]) -> bool:
        """For two classes."""
        return len(labels) == 2

    def measure(self, outputs: Float64, targets: Float64) -> Values:
        """Those of class 0, then those of class 1, from the lowest score."""
        import numpy as np

        place = np.arcsinh(_FINE * (outputs[:, 1] - outputs[:, 0])) / np.arcsinh(_FINE * _WIDEST)
        bins = np.clip(np.floor((place + 1) * SCORE_BINS / 2), 0, SCORE_BINS - 1).astype(np.int64)
        found = np.bincount(bins + SCORE_BINS * targets.astype(np.int64), minlength=self.size)
        return tuple(found.astype(np.float64).tolist())

    def fit(self, values: Values, statistics: TaskStatistics) -> bool:
        """Counts, as many of each class as it has rows."""
        _, true, _ = statistics.by_label
        halves = values[:SCORE_BINS], values[SCORE_BINS:]
        return _are_counts(values) and [sum(half) for half in halves] == list(true)

    def summary(self, values: Values, examples: int) -> Mapping[str, float | None]:
        """All need rows of both classes."""
        import numpy as np

        negatives, positives = np.array(values).reshape(2, SCORE_BINS)
        if not negatives.sum() or not positives.sum():
            return dict.fromkeys(self.metrics)
        lower = np.cumsum(negatives) - negatives / 2
        hits = np.cumsum(positives[::-1])[::-1] - (positives - 1) / 2
        precision = hits / (hits + negatives.sum() - lower)
        return {
            "auc": float(positives @ lower / (positives.sum() * negatives.sum())),
            "pr_auc": float(positives @ precision / positives.sum()),
            RECALL: _recall(negatives, positives),
        }


def _recall(negatives: Float64, positives: Float64) -> float:
    """The share of the positives above the first negative that is one too many; counts by bin, from the lowest score.

    Where that negative is number r of the n in its bin, r / (n + 1) of the bin's positives are expected above it.
    """
    import numpy as np

    allowed = negatives.sum() // NEGATIVES_PER_FALSE_ALARM
    down, hits = np.cumsum(negatives[::-1]), np.cumsum(positives[::-1])
    at = int(np.searchsorted(down, allowed, side="right"))
    n, p = negatives[::-1][at], positives[::-1][at]
    number = allowed - (down[at] - n) + 1
    return float((hits[at] - p + p * number / (n + 1)) / positives.sum())


class TopThree(MetricSums):
    """How many rows have their class among the three largest outputs; of equal ones the first are larger."""

    name = "top3"
    metrics = ("top3_accuracy",)
    size = 1

    def is_defined(self, labels: Sequence[str]) -> bool:
        """For more classes than three."""
        return len(labels) > TOP

    def measure(self, outputs: Float64, targets: Float64) -> Values:
        """One count."""
        import numpy as np

        labels = targets.astype(np.int64)
        own = outputs[np.arange(len(labels)), labels][:, None]
        first = np.arange(outputs.shape[1]) < labels[:, None]
        before = ((outputs > own) | ((outputs == own) & first)).sum(axis=1)
        return (float((before < TOP).sum()),)

    def fit(self, values: Values, statistics: TaskStatistics) -> bool:
        """A count of no fewer rows than are right."""
        return _are_counts(values) and statistics.right <= values[0] <= statistics.examples

    def summary(self, values: Values, examples: int) -> Mapping[str, float | None]:
        """The share of such rows."""
        return {"top3_accuracy": ratio(values[0], examples)}


class Calibration(MetricSums):
    """Rows, right ones, and the sum of the confidences, in 15 bins of the largest probability.

    `ece` is the expected calibration error of Guo et al. 2017: the mean over rows of |share that is right - mean
    confidence| of their bin.
    """

    name = "calibration"
    metrics = ("ece",)
    size = 3 * CONFIDENCE_BINS

    def measure(self, outputs: Float64, targets: Float64) -> Values:
        """Those of all bins, one kind after the other."""
        import numpy as np

        shares = np.exp(outputs - outputs.max(axis=1, keepdims=True))
        confidence = 1.0 / shares.sum(axis=1)
        bins = np.minimum((confidence * CONFIDENCE_BINS).astype(np.int64), CONFIDENCE_BINS - 1)
        right = outputs.argmax(axis=1) == targets
        found = [np.bincount(bins, weights, CONFIDENCE_BINS) for weights in (None, right, confidence)]
        return tuple(np.concatenate(found).tolist())

    def fit(self, values: Values, statistics: TaskStatistics) -> bool:
        """Counts of all rows and of all that are right; confidences that lie in their bins."""
        rows, right, confidence = (values[at : at + CONFIDENCE_BINS] for at in range(0, self.size, CONFIDENCE_BINS))
        if not _are_counts((*rows, *right)) or (sum(rows), sum(right)) != (statistics.examples, statistics.right):
            return False
        bins = enumerate(zip(rows, right, confidence, strict=True))
        low, high = 1 - ROUNDING, 1 + ROUNDING
        return all(
            r <= n and low * n * at / CONFIDENCE_BINS <= c <= high * n * (at + 1) / CONFIDENCE_BINS
            for at, (n, r, c) in bins
        )

    def nearest(self, values: Values, statistics: TaskStatistics) -> Values:
        """Confidences between the ends of their bins."""
        confidence = (
            min(max(c, n * at / CONFIDENCE_BINS), n * (at + 1) / CONFIDENCE_BINS)
            for at, (n, c) in enumerate(zip(values[:CONFIDENCE_BINS], values[2 * CONFIDENCE_BINS :], strict=True))
        )
        return (*values[: 2 * CONFIDENCE_BINS], *confidence)

    def summary(self, values: Values, examples: int) -> Mapping[str, float | None]:
        """The error, from 0 to 1."""
        right, confidence = values[CONFIDENCE_BINS : 2 * CONFIDENCE_BINS], values[2 * CONFIDENCE_BINS :]
        gaps = sum(abs(r - c) for r, c in zip(right, confidence, strict=True))
        return {"ece": gaps / examples if examples else None}


class AbsoluteErrors(MetricSums):
    """The sum of |prediction - target|, in the user's units."""

    name = "absolute"
    metrics = ("mae",)
    size = 1

    def measure(self, outputs: Float64, targets: Float64) -> Values:
        """One sum."""
        return (float(abs(outputs[:, 0] - targets).sum()),)

    def fit(self, values: Values, statistics: TaskStatistics) -> bool:
        """Between what the means differ by and what the squares allow."""
        n, (p, y, *_, error) = statistics.examples, statistics.moments
        rounding = 1e-6 * sqrt(n * error) + n * ROUNDING * (abs(p) + abs(y))
        return n * abs(p - y) - rounding <= values[0] <= sqrt(n * error) + rounding

    def nearest(self, values: Values, statistics: TaskStatistics) -> Values:
        """Between what the means differ by and what the squares allow."""
        n, (p, y, *_, error) = statistics.examples, statistics.moments
        return (min(max(values[0], n * abs(p - y)), sqrt(n * error)),)

    def summary(self, values: Values, examples: int) -> Mapping[str, float | None]:
        """The mean."""
        return {"mae": values[0] / examples if examples else None}


def sums_fit(rows: Sequence[MetricSums], statistics: TaskStatistics) -> bool:
    """Whether these sums, and no others, come with statistics that are possible otherwise."""
    found = dict(statistics.sums)
    if len(found) != len(statistics.sums) or set(found) != {row.name for row in rows}:
        return False
    return all(
        len(found[row.name]) == row.size
        and all(map(isfinite, found[row.name]))
        and row.fit(found[row.name], statistics)
        for row in rows
    )


def _are_counts(values: Values) -> bool:
    return all(value >= 0 and value == int(value) for value in values)
