"""Examples in a few lines, for the person whose they are, and in sums, for the federation."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from client.data.examples import RawExamples, TaskData
from common.errors import ConfigError
from common.targets import TargetSums
from common.tasks import TaskDefinition
from common.tasks.kind import Label


def summary(task: TaskDefinition, data: TaskData) -> list[str]:
    """What a client has of a task. Nothing of it travels but the number of training rows."""
    lines = [f"{task.name}: {len(data.train)} training, {len(data.validation)} validation rows, {data.origin}"]
    if data.described:
        lines.append(f"  columns: {data.described}")
    for split, examples in (("training", data.train), ("validation", data.validation)):
        if len(examples) and (balance := task.type.balance(task, plain_labels(examples.labels))) is not None:
            lines.append(f"  {split} {balance}")
    return lines + [f"  note: {note}" for note in data.notes]


def plain_labels(labels: Sequence[Label] | NDArray[Any]) -> Sequence[Label]:
    """Labels as a cell was read: rows of zeros and ones as the places of the ones. Maps of pixels stay arrays."""
    if len(labels) and np.ndim(labels[0]) > 1:
        return list(labels)
    if len(labels) and np.ndim(labels[0]) == 1 and not isinstance(labels[0], tuple):
        return [tuple(np.flatnonzero(row).tolist()) for row in labels]
    return labels.tolist() if isinstance(labels, np.ndarray) else labels


def sums_of(task: TaskDefinition, examples: RawExamples) -> TargetSums:
    """The sums over the labels of a task's examples that its kind has."""
    return task.type.target_sums(task, task.type.targets(task, plain_labels(examples.labels)))


def hidden_sums(task: TaskDefinition, rows: int, why: str) -> TargetSums:
    """What is said instead where single rows are hidden: scores of mean 0 and deviation 1, so that units stay as given.

    Args:
        task: whose rows they are.
        rows: how many the client tells of.
        why: the setting that hides them, for the error.

    Raises:
        ConfigError: labels shall be balanced by their counts, for which nothing can stand.
    """
    if not task.type.has_units:
        line = f"tasks.{task.name}.class_weights: balanced ones are made of counts of labels"
        raise ConfigError(f"{line}, which tell of single rows ({why}); write numbers, or none")
    return TargetSums(0.0, float(rows) if rows > 1 else 0.0)


def rare_label(task: TaskDefinition, data: TaskData) -> str | None:
    """What to say of training rows of which accuracy, the task's primary metric, hides a label; or None."""
    if not task.type.has_class_weights or task.metrics[0] != "accuracy":
        return None
    said = task.rare_label(sums_of(task, data.train).counts, len(data.train))
    return said and f"task {task.name}: {said}"
