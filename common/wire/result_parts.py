"""Results of orders in messages: what was trained, and the statistics of what was scored."""

from __future__ import annotations

from collections.abc import Sequence

from common.errors import WireError
from common.orders import DualSums, TaskResult
from common.statistics import COUNTS, MOMENTS, TaskStatistics
from common.wire import checks, limits
from common.wire.gen import federation_pb2 as pb


def pack_result(value: TaskResult) -> pb.TaskResult:
    """Value to message."""
    return pb.TaskResult(
        task=value.task,
        examples=value.examples,
        train_loss=value.train_loss,
        validation=None if value.validation is None else _pack_statistics(value.validation),
        personal=None if value.personal is None else _pack_statistics(value.personal),
        dual=None if value.dual is None else pb.DualSums(**vars(value.dual)),
    )


def unpack_results(messages: Sequence[pb.TaskResult]) -> tuple[TaskResult, ...]:
    """Messages to values; no two of one task."""
    results = checks.items(messages, "results", limits.MAX_TASKS)
    checks.distinct((result.task for result in results), "results")
    return tuple(_unpack_result(result) for result in results)


def _unpack_result(message: pb.TaskResult) -> TaskResult:
    return TaskResult(
        checks.task_name(message.task),
        checks.count(message.examples, "examples", most=limits.MAX_EXAMPLES),
        checks.number(message.train_loss, "train_loss") if message.HasField("train_loss") else None,
        _unpack_statistics(message.validation) if message.HasField("validation") else None,
        _unpack_statistics(message.personal) if message.HasField("personal") else None,
        _unpack_dual(message.dual) if message.HasField("dual") else None,
    )


def _unpack_dual(message: pb.DualSums) -> DualSums:
    return DualSums(
        checks.amount(message.loss, "loss"),
        checks.number(message.value, "value"),
        checks.amount(message.lengths, "lengths"),
        checks.amount(message.squares, "squares"),
        checks.count(message.visits, "visits"),
        checks.amount(message.theta, "theta", 1.0),
    )


def _pack_statistics(value: TaskStatistics) -> pb.TaskStatistics:
    return pb.TaskStatistics(
        examples=value.examples,
        loss_sum=value.loss_sum,
        right=value.right,
        labels=value.labels,
        moments=value.moments,
        means=[pb.MeanMetric(metric=name, value=mean, examples=n) for name, mean, n in value.means],
        sums=[pb.MetricSums(name=name, values=values) for name, values in value.sums],
        noised=value.noised,
    )


def _unpack_statistics(message: pb.TaskStatistics) -> TaskStatistics:
    means = checks.items(message.means, "means", limits.MAX_METRICS)
    checks.distinct((mean.metric for mean in means), "means")
    sums = checks.items(message.sums, "sums", limits.MAX_METRICS)
    checks.distinct((found.name for found in sums), "sums")
    moments = checks.items(message.moments, "moments", most=MOMENTS)
    if len(moments) not in (0, MOMENTS):
        raise WireError(f"moments: {len(moments)} numbers are not {MOMENTS}")
    labels = checks.items(message.labels, "labels", COUNTS * limits.MAX_LABELS)
    return TaskStatistics(
        checks.count(message.examples, "examples"),
        checks.amount(message.loss_sum, "loss_sum"),
        checks.count(message.right, "right"),
        tuple(checks.count(number, "labels") for number in labels),
        tuple(checks.number(moment, "moments") for moment in moments),
        tuple(
            (
                checks.identifier(mean.metric, "metric"),
                checks.number(mean.value, "value"),
                checks.count(mean.examples, "examples"),
            )
            for mean in means
        ),
        tuple(_unpack_sums(found) for found in sums),
        message.noised,
    )


def _unpack_sums(message: pb.MetricSums) -> tuple[str, tuple[float, ...]]:
    values = checks.items(message.values, "values", limits.MAX_SUMS)
    return checks.identifier(message.name, "name"), tuple(checks.number(value, "values") for value in values)
