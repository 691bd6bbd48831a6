"""Scores that can be added up over clients.

A client reduces its predictions to `TaskStatistics`; the coordinator merges them and reads metrics off the result.
Metrics from counts and moments are then those of the pooled predictions: counts exactly, moments to rounding, whatever
the order of the clients. Spearman and AUC need the rows themselves, so they are example-weighted means over clients
and carry `_mean` in their names. Definitions are those of scikit-learn's functions with their defaults.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from math import exp, fsum, isfinite, sqrt

import numpy as np
from numpy.typing import NDArray

from common.statistics import COUNTS, MOMENTS, TaskStatistics
from common.tasks import LOWER_IS_BETTER, TaskDefinition, TaskType

Array = NDArray[np.float64]

LARGEST_EXPONENT = 200.0
LARGEST = 1e100
"""Moments from clients are at most this large, so that products of a few of them are still finite."""
LARGEST_LOSS = float(np.finfo(np.float32).max)
"""Of one example: losses are computed in float32."""

_RANGES = {"spearman_mean": (-1.0, 1.0), "auc_mean": (0.0, 1.0)}
_ROUNDING = 1e-9
_CONSTANT = 1e-13
"""A standard deviation this small against the mean is rounding; the bound of scipy.stats.pearsonr."""


def measure(task: TaskDefinition, outputs: Array, targets: Array, loss_sum: float) -> TaskStatistics:
    """Reduce a head's outputs to what may travel.

    Args:
        task: the definition that says how to read the outputs.
        outputs: logits or predictions, float, shape (examples, task.outputs).
        targets: class indices (examples,), 0/1 indicators (examples, labels) or numbers (examples,).
        loss_sum: the loss summed over the examples.
    """
    count = len(targets)
    if task.type is TaskType.REGRESSION:
        p, y = outputs[:, 0], targets
        spearman = _mean("spearman_mean", _spearman(p, y), count)
        return TaskStatistics(count, loss_sum, moments=_moments(p, y), means=spearman)
    if task.type is TaskType.MULTILABEL:
        predicted, true = outputs > 0, targets > 0.5
        counts = ((predicted & true).sum(axis=0), true.sum(axis=0), predicted.sum(axis=0))
        return TaskStatistics(count, loss_sum, int((predicted == true).all(axis=1).sum()), _by_label(counts))
    labels, chosen = targets.astype(np.int64), outputs.argmax(axis=1)
    hits = labels[labels == chosen]
    found = [np.bincount(indices, minlength=task.outputs) for indices in (hits, labels, chosen)]
    auc = _auc(outputs[:, 1] - outputs[:, 0], labels) if task.outputs == 2 else None
    return TaskStatistics(count, loss_sum, len(hits), _by_label(found), means=_mean("auc_mean", auc, count))


def fits(task: TaskDefinition, statistics: TaskStatistics) -> bool:
    """Whether `measure` can have given these statistics for this task.

    Counts must be those of some predictions, correlations and areas lie in their ranges, losses are not negative and
    no larger per example than float32 goes, and moments obey Cauchy and Schwarz.
    """
    n, means = statistics.examples, statistics.means
    if n <= 0 or not 0.0 <= statistics.loss_sum <= n * LARGEST_LOSS or not 0 <= statistics.right <= n:
        return False
    possible = {
        TaskType.CLASSIFICATION: _classes_fit,
        TaskType.MULTILABEL: _subsets_fit,
        TaskType.REGRESSION: _moments_fit,
        TaskType.MASKED_LM: _words_fit,
    }[task.type]
    return possible(task, statistics) and len(means) <= 1 and all(_mean_fits(task, statistics, *mean) for mean in means)


def _mean_fits(task: TaskDefinition, statistics: TaskStatistics, name: str, value: float, examples: int) -> bool:
    """Ranks need two rows, an area rows of both classes."""
    if task.type is TaskType.REGRESSION:
        defined = name == "spearman_mean" and statistics.examples > 1
    else:
        two_classes = task.type is TaskType.CLASSIFICATION and task.outputs == 2
        defined = two_classes and name == "auc_mean" and min(statistics.labels[1::COUNTS]) > 0
    if not defined:
        return False
    low, high = _RANGES[name]
    return examples == statistics.examples and low - _ROUNDING <= value <= high + _ROUNDING


def _counts_fit(task: TaskDefinition, statistics: TaskStatistics) -> bool:
    """Whether there are counts of every label and no moments, and no label was hit more often than it was there."""
    if len(statistics.labels) != COUNTS * task.outputs or statistics.moments:
        return False
    rows = zip(*(statistics.labels[at::COUNTS] for at in range(COUNTS)), strict=True)
    return all(0 <= hits <= min(true, said) and max(true, said) <= statistics.examples for hits, true, said in rows)


def _classes_fit(task: TaskDefinition, statistics: TaskStatistics) -> bool:
    """Such counts belong to a confusion matrix: what is missed of a class goes to others, which must have the room."""
    if not _counts_fit(task, statistics):
        return False
    hits, true, said = (statistics.labels[at::COUNTS] for at in range(COUNTS))
    n, missed = statistics.examples, statistics.examples - statistics.right
    sums = sum(hits) == statistics.right and sum(true) == n and sum(said) == n
    return sums and all(t - h + p - h <= missed for h, t, p in zip(hits, true, said, strict=True))


def _subsets_fit(task: TaskDefinition, statistics: TaskStatistics) -> bool:
    """A row that is not right has at least one wrong label, and at most all."""
    if not _counts_fit(task, statistics):
        return False
    hits, true, said = (statistics.labels[at::COUNTS] for at in range(COUNTS))
    wrong = [t + p - 2 * h for h, t, p in zip(hits, true, said, strict=True)]
    missed = statistics.examples - statistics.right
    room = all(t + p - h <= statistics.examples for h, t, p in zip(hits, true, said, strict=True))
    return room and max(wrong) <= missed <= sum(wrong)


def _words_fit(_: TaskDefinition, statistics: TaskStatistics) -> bool:
    return not statistics.labels and not statistics.moments


def _moments_fit(_: TaskDefinition, statistics: TaskStatistics) -> bool:
    """Moments of some predictions and targets, to rounding."""
    if len(statistics.moments) != MOMENTS or statistics.labels or statistics.right:
        return False
    if not all(isfinite(value) and abs(value) <= LARGEST for value in statistics.moments):
        return False
    n, (p, y, pp, yy, py, error) = statistics.examples, statistics.moments
    if min(pp, yy, error) < 0 or abs(py) > sqrt(pp) * sqrt(yy) * (1 + _ROUNDING):
        return False
    if n == 1 and max(pp, yy) > 0:
        return False
    expected = pp - 2 * py + yy + n * (p - y) ** 2
    rounding = 1e-6 * (pp + yy + n * (p - y) ** 2) + n * (_ROUNDING * (abs(p) + abs(y))) ** 2
    return abs(error - expected) <= rounding


def merge(parts: Iterable[TaskStatistics]) -> TaskStatistics:
    """The statistics of the pooled rows of several clients; the same numbers in whatever order they are given.

    Moments by Chan, Golub and LeVeque (1979); floating-point sums are exactly rounded (`math.fsum`).
    """
    items = list(parts)
    means: dict[str, list[tuple[float, int]]] = {}
    for name, value, examples in (mean for item in items for mean in item.means):
        means.setdefault(name, []).append((value, examples))
    weights = {name: sum(count for _, count in found) for name, found in means.items()}
    return TaskStatistics(
        sum(item.examples for item in items),
        fsum(item.loss_sum for item in items),
        sum(item.right for item in items),
        tuple(map(sum, zip(*(item.labels for item in items), strict=True))),
        _pooled([(item.examples, item.moments) for item in items if item.moments]),
        tuple((n, fsum(v * k for v, k in means[n]) / weights[n], weights[n]) for n in sorted(means)),
    )


def summarise(task: TaskDefinition, total: TaskStatistics) -> dict[str, float | None]:
    """The task's metrics and the mean loss; None where a metric is not defined (such as Pearson of a constant)."""
    values: dict[str, float | None] = {name: value for name, value, _ in total.means}
    counts = np.array(total.labels, dtype=np.float64).reshape(-1, COUNTS).T
    if task.type is TaskType.REGRESSION:
        values |= _regression(total)
    elif task.type is TaskType.MASKED_LM:
        values |= _masked(total)
    elif task.type is TaskType.MULTILABEL:
        values |= _multilabel(total, *counts)
    else:
        values |= _classification(total, *counts)
    chosen = {name: values.get(name) for name in task.metrics}
    return chosen | {"loss": total.loss_sum / total.examples if total.examples else None}


def is_better(metric: str, value: float, than: float) -> bool:
    """Whether `value` beats `than` for a metric."""
    return value < than if metric in LOWER_IS_BETTER else value > than


def _classification(total: TaskStatistics, hits: Array, true: Array, said: Array) -> Mapping[str, float | None]:
    """Accuracy, F1 (of class 1 if there are two classes, else the mean over classes), Matthews.

    As f1_score(average="macro") of scikit-learn, the mean is over the classes that are true or predicted anywhere.
    Matthews for several classes is that of Gorodkin (2004); 0 where it is not defined, as matthews_corrcoef.
    """
    n = float(total.examples)
    f1 = [_ratio(2 * h, t + p) for h, t, p in zip(hits, true, said, strict=True)]
    present = [value for value, t, p in zip(f1, true, said, strict=True) if t + p > 0]
    covariance = total.right * n - float(true @ said)
    spread = (n * n - float(said @ said)) * (n * n - float(true @ true))
    return {
        "accuracy": _ratio(total.right, n),
        "f1": f1[1] if len(f1) == 2 else float(np.mean(present or [0.0])),
        "matthews": covariance / sqrt(spread) if spread > 0 else 0.0,
    }


def _masked(total: TaskStatistics) -> Mapping[str, float | None]:
    """The share of hidden words that were found, and exp of their mean loss."""
    perplexity = exp(min(total.loss_sum / total.examples, LARGEST_EXPONENT)) if total.examples else None
    return {"masked_accuracy": _ratio(total.right, total.examples), "perplexity": perplexity}


def _multilabel(total: TaskStatistics, hits: Array, true: Array, said: Array) -> Mapping[str, float | None]:
    """F1 pooled over labels; F1 averaged over labels, 0 for one that is nowhere; shares of right rows and decisions.

    `f1_micro`, `f1_macro` and `accuracy` (all labels of a row) are f1_score and accuracy_score of scikit-learn;
    `label_accuracy` counts every yes or no.
    """
    per_label = [_ratio(2 * h, t + p) for h, t, p in zip(hits, true, said, strict=True)]
    decisions = float(total.examples * len(hits))
    wrong = float((true + said - 2 * hits).sum())
    return {
        "f1_micro": _ratio(2 * float(hits.sum()), float((true + said).sum())),
        "f1_macro": float(np.mean(per_label)),
        "accuracy": _ratio(total.right, total.examples),
        "label_accuracy": _ratio(decisions - wrong, decisions),
    }


def _regression(total: TaskStatistics) -> Mapping[str, float | None]:
    n = total.examples
    p, y, pp, yy, py, error = total.moments
    lengths = sqrt(pp), sqrt(yy)
    defined = all(length > _CONSTANT * abs(mean) * sqrt(n) for length, mean in zip(lengths, (p, y), strict=True))
    return {
        "pearson": min(max(py / lengths[0] / lengths[1], -1.0), 1.0) if defined else None,
        "rmse": sqrt(error / n) if n else None,
    }


def _moments(p: Array, y: Array) -> tuple[float, ...]:
    """The moments of predictions and targets, (rows,) each: means first, then sums of what is left."""
    mean_p, mean_y = _mean_of(p), _mean_of(y)
    a, b = p - mean_p, y - mean_y
    sums = (float((a * a).sum()), float((b * b).sum()), float((a * b).sum()), float(((p - y) ** 2).sum()))
    return (mean_p, mean_y, *sums)


def _mean_of(values: Array) -> float:
    """The mean, exact where all values are equal."""
    first = float(values[0]) if len(values) else 0.0
    return first + float((values - first).sum()) / max(len(values), 1)


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


def _by_label(counts: Sequence[NDArray[np.int64]]) -> tuple[int, ...]:
    """Hits, true and predicted of all labels, (labels,) each, label by label."""
    return tuple(np.stack(counts, axis=1).ravel().tolist())


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


def _ratio(part: float, whole: float) -> float:
    return float(part / whole) if whole else 0.0
