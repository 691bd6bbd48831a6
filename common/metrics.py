"""Scores that can be added up over clients.

A client reduces its predictions to `TaskStatistics`; the coordinator adds them and reads metrics off the sum. Metrics
from confusion counts and moments are then exactly those of the pooled predictions. Spearman and AUC need the rows
themselves, so they are example-weighted means over clients and carry `_mean` in their names.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from math import exp, sqrt
from typing import TypeVar

import numpy as np
from numpy.typing import NDArray

from common.tasks import LOWER_IS_BETTER, TaskDefinition, TaskType

Array = NDArray[np.float64]
_Number = TypeVar("_Number", int, float)

LARGEST_EXPONENT = 200.0
LARGEST = 1e100
"""Sums from clients are at most this large, so that products of a few of them are still finite."""


@dataclass(frozen=True)
class TaskStatistics:
    """Sums over one set of predictions.

    `confusion` is row-major: [true][predicted] counts for a classification, one (tp, fp, fn, tn) per label for a
    multi-label task, (found, missed) for a masked one, whose examples are hidden words. `moments` of a regression are
    the sums of p, y, p^2, y^2, p*y for prediction p and target y. `means` are (metric, value, examples) that can only
    be averaged.
    """

    examples: int
    loss_sum: float
    confusion: tuple[int, ...] = ()
    moments: tuple[float, ...] = ()
    means: tuple[tuple[str, float, int], ...] = ()


def measure(task: TaskDefinition, outputs: Array, targets: Array, loss_sum: float) -> TaskStatistics:
    """Reduce a head's outputs to sums.

    Args:
        task: the definition that says how to read the outputs.
        outputs: logits or predictions, float, shape (examples, task.outputs).
        targets: class indices (examples,), 0/1 indicators (examples, labels) or numbers (examples,).
        loss_sum: the loss summed over the examples.
    """
    count = len(targets)
    if task.type is TaskType.REGRESSION:
        p, y = outputs[:, 0], targets
        moments = tuple(float(v) for v in (p.sum(), y.sum(), (p * p).sum(), (y * y).sum(), (p * y).sum()))
        return TaskStatistics(count, loss_sum, (), moments, _mean("spearman_mean", _spearman(p, y), count))
    if task.type is TaskType.MULTILABEL:
        return TaskStatistics(count, loss_sum, _label_counts(outputs > 0, targets > 0.5))
    labels, predicted = targets.astype(np.int64), outputs.argmax(axis=1)
    size = task.outputs
    confusion = np.bincount(labels * size + predicted, minlength=size * size)
    auc = _auc(outputs[:, 1] - outputs[:, 0], labels) if size == 2 else None
    return TaskStatistics(count, loss_sum, tuple(confusion.tolist()), (), _mean("auc_mean", auc, count))


def fits(task: TaskDefinition, statistics: TaskStatistics) -> bool:
    """Whether statistics have the form that `measure` gives for this task and can be added up without overflow."""
    size = task.outputs
    cells = {
        TaskType.CLASSIFICATION: size * size,
        TaskType.MULTILABEL: 4 * size,
        TaskType.REGRESSION: 0,
        TaskType.MASKED_LM: 2,
    }[task.type]
    sums = 5 if task.type is TaskType.REGRESSION else 0
    decisions = statistics.examples * (size if task.type is TaskType.MULTILABEL else 1)
    numbers = (statistics.loss_sum, *statistics.moments, *(value for _, value, _ in statistics.means))
    return (
        statistics.examples > 0
        and len(statistics.confusion) == cells
        and len(statistics.moments) == sums
        and min(statistics.confusion, default=0) >= 0
        and sum(statistics.confusion) == (decisions if cells else 0)
        and all(0 < examples <= statistics.examples for _, _, examples in statistics.means)
        and all(abs(number) <= LARGEST for number in numbers)
    )


def merge(parts: Iterable[TaskStatistics]) -> TaskStatistics:
    """Add statistics of one task from several clients, in the order given."""
    items = list(parts)
    means: dict[str, tuple[float, int]] = {}
    for name, value, examples in (mean for item in items for mean in item.means):
        total, weight = means.get(name, (0.0, 0))
        means[name] = (total + value * examples, weight + examples)
    return TaskStatistics(
        sum(item.examples for item in items),
        sum(item.loss_sum for item in items),
        _add([item.confusion for item in items]),
        _add([item.moments for item in items]),
        tuple((name, total / weight, weight) for name, (total, weight) in means.items()),
    )


def summarise(task: TaskDefinition, total: TaskStatistics) -> dict[str, float | None]:
    """The task's metrics and the mean loss; None where a metric is not defined (such as Pearson of a constant)."""
    values: dict[str, float | None] = {name: value for name, value, _ in total.means}
    if task.type is TaskType.REGRESSION:
        values |= _regression(total)
    elif task.type is TaskType.MASKED_LM:
        values |= _masked(total)
    elif task.type is TaskType.MULTILABEL:
        values |= _multilabel(np.array(total.confusion, dtype=np.float64).reshape(-1, 4))
    else:
        size = task.outputs
        values |= _classification(np.array(total.confusion, dtype=np.float64).reshape(size, size))
    chosen = {name: values.get(name) for name in task.metrics}
    return chosen | {"loss": total.loss_sum / total.examples if total.examples else None}


def is_better(metric: str, value: float, than: float) -> bool:
    """Whether `value` beats `than` for a metric."""
    return value < than if metric in LOWER_IS_BETTER else value > than


def _classification(confusion: Array) -> Mapping[str, float | None]:
    """Accuracy, F1 (of class 1 if there are two classes, else the unweighted mean over classes), Matthews."""
    total, hits = confusion.sum(), np.diag(confusion)
    true, predicted = confusion.sum(axis=1), confusion.sum(axis=0)
    f1 = [_ratio(2 * h, t + p) for h, t, p in zip(hits, true, predicted, strict=True)]
    spread = (total**2 - (predicted**2).sum()) * (total**2 - (true**2).sum())
    covariance = hits.sum() * total - (true * predicted).sum()
    return {
        "accuracy": _ratio(hits.sum(), total),
        "f1": f1[1] if len(f1) == 2 else float(np.mean(f1)),
        "matthews": float(covariance / sqrt(spread)) if spread > 0 else 0.0,
    }


def _masked(total: TaskStatistics) -> Mapping[str, float | None]:
    """The share of hidden words that were found, and exp of their mean loss."""
    perplexity = exp(min(total.loss_sum / total.examples, LARGEST_EXPONENT)) if total.examples else None
    return {"masked_accuracy": _ratio(total.confusion[0], sum(total.confusion)), "perplexity": perplexity}


def _multilabel(counts: Array) -> Mapping[str, float | None]:
    """F1 pooled over labels, F1 averaged over labels, and the share of right yes/no decisions."""
    tp, fp, fn, tn = counts.T
    per_label = [_ratio(2 * t, 2 * t + p + n) for t, p, n in zip(tp, fp, fn, strict=True)]
    return {
        "f1_micro": _ratio(2 * tp.sum(), 2 * tp.sum() + fp.sum() + fn.sum()),
        "f1_macro": float(np.mean(per_label)),
        "accuracy": _ratio(tp.sum() + tn.sum(), counts.sum()),
    }


def _regression(total: TaskStatistics) -> Mapping[str, float | None]:
    n = total.examples
    p, y, pp, yy, py = total.moments
    spread = (n * pp - p * p) * (n * yy - y * y)
    defined = spread > 1e-12 * max(n * pp * n * yy, 1e-300)
    squared_error = max(pp - 2 * py + yy, 0.0)
    return {
        "pearson": min(max((n * py - p * y) / sqrt(spread), -1.0), 1.0) if defined else None,
        "rmse": sqrt(squared_error / n) if n else None,
    }


def _label_counts(predicted: NDArray[np.bool_], truth: NDArray[np.bool_]) -> tuple[int, ...]:
    cells = (predicted & truth, predicted & ~truth, ~predicted & truth, ~predicted & ~truth)
    return tuple(np.stack([cell.sum(axis=0) for cell in cells], axis=1).ravel().tolist())


def _spearman(p: Array, y: Array) -> float | None:
    """Pearson correlation of the ranks, ties sharing their mean rank."""
    a, b = _ranks(p), _ranks(y)
    a, b = a - a.mean(), b - b.mean()
    scale = sqrt(float((a * a).sum() * (b * b).sum()))
    return float((a * b).sum()) / scale if scale > 0 else None


def _ranks(values: Array) -> Array:
    """Ranks from 1, ties sharing the mean of their places."""
    _, place, counts = np.unique(values, return_inverse=True, return_counts=True)
    ranks: Array = (np.cumsum(counts) - (counts - 1) / 2)[place]
    return ranks


def _auc(scores: Array, labels: NDArray[np.int64]) -> float | None:
    """Area under the ROC curve from the Mann-Whitney rank sum."""
    positives = int((labels == 1).sum())
    negatives = len(labels) - positives
    if not positives or not negatives:
        return None
    rank_sum = float(_ranks(scores)[labels == 1].sum())
    return (rank_sum - positives * (positives + 1) / 2) / (positives * negatives)


def _mean(name: str, value: float | None, examples: int) -> tuple[tuple[str, float, int], ...]:
    return () if value is None else ((name, value, examples),)


def _add(rows: Sequence[tuple[_Number, ...]]) -> tuple[_Number, ...]:
    return tuple(sum(column) for column in zip(*rows, strict=True))


def _ratio(part: float, whole: float) -> float:
    return float(part / whole) if whole else 0.0
