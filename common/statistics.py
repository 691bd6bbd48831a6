"""What travels of a set of predictions; `common.metrics` makes it and reads scores off it."""

from __future__ import annotations

from dataclasses import dataclass

COUNTS = 3
"""Numbers per label: how often it was rightly predicted, was true, was predicted."""
MOMENTS = 6
"""Numbers of a regression."""


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
