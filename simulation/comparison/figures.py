"""The figures of a comparison: means with spread, gains, the delta of FMTL-Bench, negative transfer, affinity."""

from __future__ import annotations

from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass
from itertools import product
from statistics import fmean, stdev

import numpy as np
from numpy.typing import NDArray

from common.tasks import lower_is_better
from server.reporting.values import CosineMatrix
from simulation.comparison.bootstrap import Interval, interval

Float64 = NDArray[np.float64]

MARGIN = 0.01
"""A loss of at most one point (one percent where lower is better) is not worth a flag."""

LEAST_BASE = 0.05
"""A score below this is too small to divide by; Matthews and Spearman are often near zero, or negative."""


@dataclass(frozen=True)
class Spread:
    """One value per seed, None where it is not defined; their mean and sample standard deviation (two or more)."""

    values: tuple[float | None, ...]
    mean: float | None
    sd: float | None


def spread(values: Iterable[float | None]) -> Spread:
    """Mean and spread of what is defined, to six digits."""
    every = tuple(value if value is None else round(value, 6) for value in values)
    found = [value for value in every if value is not None]
    return Spread(
        every,
        round(fmean(found), 6) if found else None,
        round(stdev(found), 6) if len(found) > 1 else None,
    )


def gain(metric: str, value: float | None, alone: float | None) -> float | None:
    """By how much a score is better than that of going alone; negative where it is worse."""
    if value is None or alone is None:
        return None
    return alone - value if lower_is_better(metric) else value - alone


def relative_gain(metric: str, value: float | None, alone: float | None) -> float | None:
    """(-1)^l (M_fed - M_alone) / M_alone, l = 1 where lower is better (FMTL-Bench); None where that says nothing."""
    difference = gain(metric, value, alone)
    least = 0.0 if lower_is_better(metric) else LEAST_BASE
    if difference is None or alone is None or alone <= least:
        return None
    return difference / alone


def is_negative_transfer(metric: str, gain: float | None, alone: float | None, within: Interval | None) -> bool:
    """Whether a task is worse off: the whole interval of its gain is below zero, and the loss exceeds `MARGIN`."""
    if gain is None or alone is None or within is None:
        return False
    return within[1] < 0 and -gain > MARGIN * (alone if lower_is_better(metric) else 1.0)


@dataclass(frozen=True)
class Difference:
    """A task's primary metric against that of the baseline; positive is better. The interval covers 95 percent."""

    gain: Spread
    relative: Spread
    interval: Interval | None
    negative_transfer: bool


@dataclass(frozen=True)
class MeanGain:
    """The mean of gains over tasks, and its interval."""

    gain: Spread
    interval: Interval | None


@dataclass(frozen=True)
class Against:
    """A method against a baseline: task by task, and the mean of the relative gains as FMTL-Bench has it.

    `means` are means over tasks of plain gains, by name; one is empty where a primary metric is an error, which has
    units. `worst` is the task that gained least by `relative`, or by points where each is one without units.
    `left_out` are tasks whose score alone is too small to divide by with some seed; they are not in `delta`, with any
    seed and any method alike.
    """

    tasks: Mapping[str, Difference]
    delta: Spread
    means: Mapping[str, MeanGain]
    worst: str
    left_out: tuple[str, ...]


Means = Mapping[str, Mapping[str, float]]
"""Of each mean over tasks their weights."""


def compare(
    metrics: Mapping[str, str],
    scores: Mapping[str, Sequence[float | None]],
    alone: Mapping[str, Sequence[float | None]],
    auxiliary: Collection[str] = (),
    means: Means | None = None,
    drawn: Mapping[str, tuple[Float64, Float64]] | None = None,
) -> Against:
    """A method against a baseline.

    Args:
        metrics: task -> primary metric.
        scores: task -> the method's score per seed.
        alone: task -> the baseline's score per seed, in the same order.
        auxiliary: tasks that are there for the others, and not in `delta`.
        means: the means over tasks; None for that of all but auxiliary ones.
        drawn: task -> the scores of both with draws of rows and seeds, for intervals.
    """
    main = [task for task in metrics if task not in auxiliary]
    means = {"all": dict.fromkeys(main, 1.0)} if means is None else means
    draws = {
        task: (alone_ - mine if lower_is_better(metrics[task]) else mine - alone_)
        for task, (mine, alone_) in (drawn or {}).items()
    }
    tasks, left_out = {}, []
    for task, metric in metrics.items():
        pairs = list(zip(scores[task], alone[task], strict=True))
        gains = spread(gain(metric, value, base) for value, base in pairs)
        relative = [relative_gain(metric, value, base) for value, base in pairs]
        if any(relative_gain(metric, base, base) is None for base in alone[task]):
            relative = [None] * len(pairs)
            left_out.append(task)
        within = interval(draws[task]) if task in draws else None
        flag = is_negative_transfer(metric, gains.mean, spread(alone[task]).mean, within)
        tasks[task] = Difference(gains, spread(relative), within, flag)
    kept = [task for task in main if task not in left_out]
    by_seed = zip(*(tasks[task].relative.values for task in kept), strict=True)
    return Against(
        tasks,
        spread(map(_mean, by_seed)),
        {name: _mean_gain(metrics, tasks, weights, draws) for name, weights in means.items()},
        _worst(metrics, {task: tasks[task] for task in main}),
        tuple(left_out),
    )


def _mean_gain(
    metrics: Mapping[str, str],
    tasks: Mapping[str, Difference],
    weights: Mapping[str, float],
    draws: Mapping[str, Float64],
) -> MeanGain:
    if any(lower_is_better(metrics[task]) for task in weights):
        return MeanGain(spread(()), None)
    found = weighted_mean({task: tasks[task].gain.values for task in weights}, weights)
    if not all(task in draws for task in weights):
        return MeanGain(found, None)
    drawn = np.average([draws[task] for task in weights], axis=0, weights=[*weights.values()])
    return MeanGain(found, interval(drawn))


def weighted_mean(values: Mapping[str, Sequence[float | None]], weights: Mapping[str, float]) -> Spread:
    """The mean over tasks for each seed; not defined with a seed where one of the values is not."""
    by_seed = zip(*(values[task] for task in weights), strict=True)
    return spread(_mean(each, [*weights.values()]) for each in by_seed)


def _worst(metrics: Mapping[str, str], tasks: Mapping[str, Difference]) -> str:
    """The task that gained least: in points, or relative to its baseline where there are errors among the metrics."""
    errors = any(lower_is_better(metric) for metric in metrics.values())
    known = {task: (each.relative if errors else each.gain).mean for task, each in tasks.items()}
    found = {task: value for task, value in known.items() if value is not None}
    return min(found, key=lambda task: found[task], default="")


def _mean(values: Sequence[float | None], weights: Sequence[float] | None = None) -> float | None:
    found = [value for value in values if value is not None]
    return fmean(found, weights) if found and len(found) == len(values) else None


def mean_agreement(agreements: Iterable[CosineMatrix]) -> CosineMatrix | None:
    """Cosines of every two tasks, averaged over rounds, scopes and seeds; tasks that agree stand together.

    None without two tasks of which every two have met.
    """
    sums: dict[tuple[str, str], list[float]] = {}
    for agreement in agreements:
        for (i, first), (j, second) in product(enumerate(agreement.tasks), repeat=2):
            sums.setdefault((first, second), []).append(agreement.values[i][j])
    names = list(dict.fromkeys(first for first, _ in sums))
    if len(names) < 2 or any(pair not in sums for pair in product(names, repeat=2)):
        return None
    mean = {pair: fmean(values) for pair, values in sums.items()}
    order = by_average_linkage(names, mean)
    return CosineMatrix(tuple(order), tuple(tuple(round(mean[a, b], 6) for b in order) for a in order))


def by_average_linkage(names: Sequence[str], similarity: Mapping[tuple[str, str], float]) -> list[str]:
    """Names in the order of a dendrogram: the two groups of largest mean similarity join until one is left."""
    groups = [[name] for name in names]
    while len(groups) > 1:
        pairs = [(a, b) for i, a in enumerate(groups) for b in groups[i + 1 :]]
        first, second = max(pairs, key=lambda pair: fmean(similarity[a, b] for a, b in product(*pair)))
        groups = [group for group in groups if group not in (first, second)]
        turned = [(a, b) for a in (first, first[::-1]) for b in (second, second[::-1])]
        first, second = max(turned, key=lambda pair: similarity[pair[0][-1], pair[1][0]])
        groups.append([*first, *second])
    return groups[0]
