"""Results of a task as numbers that can be added up: rows, losses, counts and moments. No numpy, for the core.

Whoever adds them rounds each to a multiple of 2^-20 (`common.secure.ring.quantise_counts`). Whole numbers stay as they
are, so all counts of the sum are those of `common.statistics.merge`. Of k members, any other sum is at most k * 2^-21
beside.

Moments travel as sums of p, y, p^2, y^2 and (p - y)^2, of predictions and targets in the units of the task. With both
around m there, sums of squared deviations and products are at most (2 + 6 |m|) k 2^-21 beside, in these units; a
deviation that could be rounding alone counts as none, so that a constant has no correlation. Hence units matter: where
targets lie far from 0 without any, what they deviate by drowns; where they are small, so do their squares. Sums of all
members must stay below 2^43: 10,000 rows of targets up to 29,000, say. Numbers beyond are the caller's to refuse.
"""

from __future__ import annotations

from collections.abc import Sequence
from itertools import islice
from math import sqrt
from typing import TypeVar

from common.orders import TaskResult
from common.statistics import COUNTS, TaskStatistics
from common.targets import OWN_UNITS, TargetUnits
from common.tasks import TaskDefinition

N = TypeVar("N", bound=Sequence[float])

_OF_RESULT = 4
"""Members, rows trained on, those of them whose loss is known, and the sum of their losses."""
_OF_ROWS = 3
"""Rows, the sum of their losses, right ones."""
_MOMENTS = 5
_OF_MEAN = 2
"""A mean times its rows, and these rows."""
_HALF_STEP = 2.0**-21


def size_of(task: TaskDefinition) -> int:
    """How many numbers a task's results are."""
    return _OF_RESULT + 2 * _block_size(task)


def numbers_of(task: TaskDefinition, result: TaskResult, units: TargetUnits = OWN_UNITS) -> list[float]:
    """One member's results as `size_of(task)` numbers.

    Args:
        task: what they are of.
        result: without sums of a dual, which do not travel so.
        units: the order's, of targets that are numbers.

    Raises:
        ValueError: these results are not of this task.
    """
    examples, loss = result.examples, result.train_loss
    trained = [0.0, 0.0] if loss is None else [float(examples), loss * examples]
    blocks = (_block(task, found, units) for found in (result.validation, result.personal))
    numbers = [1.0, float(examples), *trained, *(number for block in blocks for number in block)]
    return _checked(task, numbers)


def result_of(task: TaskDefinition, numbers: Sequence[float], units: TargetUnits = OWN_UNITS) -> TaskResult:
    """What the sums of all members' numbers say, as if they were one client's results.

    Args:
        task: what they are of.
        numbers: `size_of(task)` sums.
        units: those of `numbers_of`.

    Raises:
        ValueError: these are not so many.
    """
    members, examples, trained, losses = _checked(task, numbers)[:_OF_RESULT]
    half = _OF_RESULT + _block_size(task)
    blocks = (numbers[_OF_RESULT:half], numbers[half:])
    validation, personal = (_statistics(task, block, round(members), units) for block in blocks)
    return TaskResult(task.name, round(examples), losses / trained if trained else None, validation, personal)


def _checked(task: TaskDefinition, numbers: N) -> N:
    if len(numbers) != size_of(task):
        raise ValueError(f"{len(numbers)} numbers are not the {size_of(task)} of {task.name}")
    return numbers


def _has_mean(task: TaskDefinition) -> bool:
    return task.type.rank_metric in task.type.defined_metrics(task.labels)


def _block_size(task: TaskDefinition) -> int:
    moments, mean = _MOMENTS * task.type.has_units, _OF_MEAN * _has_mean(task)
    return _OF_ROWS + COUNTS * len(task.labels) + moments + mean + sum(row.size for row in task.metric_sums)


def _block(task: TaskDefinition, found: TaskStatistics | None, units: TargetUnits) -> list[float]:
    if found is None or not found.examples:
        return [0.0] * _block_size(task)
    numbers = [float(found.examples), found.loss_sum, float(found.right), *map(float, found.labels)]
    if task.type.has_units:
        numbers += _power_sums(found, units)
    if _has_mean(task):
        numbers += next(([value * rows, float(rows)] for _, value, rows in found.means), [0.0, 0.0])
    sums = dict(found.sums)
    return [*numbers, *(value for name in _sum_names(task) for value in sums[name])]


def _sum_names(task: TaskDefinition) -> list[str]:
    return sorted(row.name for row in task.metric_sums)


def _statistics(
    task: TaskDefinition, numbers: Sequence[float], members: int, units: TargetUnits
) -> TaskStatistics | None:
    rest = iter(numbers)
    examples, loss_sum, right = islice(rest, _OF_ROWS)
    if not examples:
        return None
    n, labels = round(examples), tuple(map(round, islice(rest, COUNTS * len(task.labels))))
    moments: tuple[float, ...] = ()
    if task.type.has_units:
        moments = _moments(n, tuple(islice(rest, _MOMENTS)), members, units)
    means: tuple[tuple[str, float, int], ...] = ()
    if _has_mean(task):
        value, rows = islice(rest, _OF_MEAN)
        means = ((task.type.rank_metric, value / rows, round(rows)),) if rows else ()
    found = TaskStatistics(n, loss_sum, round(right), labels, moments, means)
    rows_of_sums = sorted(task.metric_sums, key=lambda row: row.name)
    sums = ((row.name, row.nearest(tuple(islice(rest, row.size)), found)) for row in rows_of_sums)
    return TaskStatistics(n, loss_sum, round(right), labels, moments, means, tuple(sums))


def _power_sums(found: TaskStatistics, units: TargetUnits) -> list[float]:
    """Of predictions and targets in their units; their products follow from the rest."""
    n, (p, y, pp, yy, _, error) = found.examples, found.moments
    a, b, square = (p - units.mean) / units.scale, (y - units.mean) / units.scale, units.scale * units.scale
    return [n * a, n * b, pp / square + n * a * a, yy / square + n * b * b, error / square]


def _moments(n: int, sums: Sequence[float], members: int, units: TargetUnits) -> tuple[float, ...]:
    """Centred moments from power sums: ones that some rows have, although the sums are rounded."""
    a, b = sums[0] / n, sums[1] / n
    pp, yy = (_spread(n, mean, total, members) for mean, total in ((a, sums[2]), (b, sums[3])))
    apart, lengths = n * (a - b) * (a - b), (sqrt(pp), sqrt(yy))
    low, high = (length * length + apart for length in (lengths[0] - lengths[1], lengths[0] + lengths[1]))
    error, most = min(max(sums[4], low), high), lengths[0] * lengths[1]
    py = min(max((pp + yy + apart - error) / 2, -most), most)
    square = units.scale * units.scale
    return (
        *(units.mean + units.scale * mean for mean in (a, b)),
        *(square * value for value in (pp, yy, py, error)),
    )


def _spread(n: int, mean: float, squares: float, members: int) -> float:
    """The sum of squared deviations, 0 where rounding alone may have made it."""
    found = squares - n * mean * mean
    return found if n > 1 and found > (1 + 2 * abs(mean)) * members * _HALF_STEP else 0.0
