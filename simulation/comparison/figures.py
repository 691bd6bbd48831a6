"""The figures of a comparison: means with spread, gains, the delta of FMTL-Bench, negative transfer, affinity."""

from __future__ import annotations

from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass
from itertools import product
from statistics import fmean, stdev

from common.tasks import lower_is_better
from server.reporting.values import CosineMatrix

MARGIN = 0.01
"""With one seed there is no spread: a loss up to one point (one percent where lower is better) may be chance."""

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


def is_negative_transfer(metric: str, gains: Sequence[float | None], alone: Sequence[float | None]) -> bool:
    """Whether a task is worse off than alone, by more than the spread over the seeds allows.

    With several seeds: every one is worse, and the mean loss is larger than the standard deviation of the
    differences. With one: the loss is larger than `MARGIN`, or than that share of the score where lower is better.
    """
    found, base = [g for g in gains if g is not None], [a for a in alone if a is not None]
    if not found or len(found) < len(gains):
        return False
    if len(found) == 1:
        return -found[0] > MARGIN * (base[0] if lower_is_better(metric) else 1.0)
    return max(found) < 0 and -fmean(found) > stdev(found)


@dataclass(frozen=True)
class Difference:
    """A task's primary metric against the same task alone; positive is better."""

    gain: Spread
    relative: Spread
    negative_transfer: bool


@dataclass(frozen=True)
class Against:
    """A method against a baseline: task by task, and the mean of the relative gains as FMTL-Bench has it.

    `mean_gain` is the mean over tasks of plain gains; it is empty where a primary metric is an error, which has units.
    `left_out` are tasks whose score alone is too small to divide by with some seed; they are not in `delta`, with any
    seed and any method alike.
    """

    tasks: Mapping[str, Difference]
    delta: Spread
    mean_gain: Spread
    left_out: tuple[str, ...]


def compare(
    metrics: Mapping[str, str],
    scores: Mapping[str, Sequence[float | None]],
    alone: Mapping[str, Sequence[float | None]],
    auxiliary: Collection[str] = (),
) -> Against:
    """A method against a baseline.

    Args:
        metrics: task -> primary metric.
        scores: task -> the method's score per seed.
        alone: task -> the baseline's score per seed, in the same order.
        auxiliary: tasks that are there for the others, and not in `delta`.
    """
    tasks, left_out = {}, []
    for task, metric in metrics.items():
        pairs = list(zip(scores[task], alone[task], strict=True))
        gains = [gain(metric, value, base) for value, base in pairs]
        relative = [relative_gain(metric, value, base) for value, base in pairs]
        if any(relative_gain(metric, base, base) is None for base in alone[task]):
            relative = [None] * len(pairs)
            left_out.append(task)
        flag = is_negative_transfer(metric, gains, alone[task])
        tasks[task] = Difference(spread(gains), spread(relative), flag)
    kept = [task for task in metrics if task not in left_out and task not in auxiliary]
    by_seed = zip(*(tasks[task].relative.values for task in kept), strict=True)
    main = [task for task in metrics if task not in auxiliary]
    plain = zip(*(tasks[task].gain.values for task in main), strict=True)
    mean_gain = () if any(lower_is_better(metrics[task]) for task in main) else map(_mean, plain)
    return Against(tasks, spread(map(_mean, by_seed)), spread(mean_gain), tuple(left_out))


def _mean(values: Sequence[float | None]) -> float | None:
    found = [value for value in values if value is not None]
    return fmean(found) if found and len(found) == len(values) else None


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
