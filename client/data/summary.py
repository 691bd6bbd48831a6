"""RawExamples in a few lines for the person whose they are: how many, which column is what, how labels are balanced."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from client.data.examples import TaskData
from common.tasks import TaskDefinition
from common.tasks.definition import Label


def summary(task: TaskDefinition, data: TaskData) -> list[str]:
    """What a client has of a task. Nothing of it travels but the number of training rows."""
    lines = [f"{task.name}: {len(data.train)} training, {len(data.validation)} validation rows, {data.origin}"]
    if data.described:
        lines.append(f"  columns: {data.described}")
    for split, examples in (("training", data.train), ("validation", data.validation)):
        if len(examples) and (balance := task.type.balance(task, _plain(examples.labels))) is not None:
            lines.append(f"  {split} {balance}")
    return lines + [f"  note: {note}" for note in data.notes]


def _plain(labels: Sequence[Label] | NDArray[Any]) -> Sequence[Label]:
    """Labels as a cell was read: rows of zeros and ones as the places of the ones."""
    if np.ndim(labels[0]) == 1 and not isinstance(labels[0], tuple):
        return [tuple(np.flatnonzero(row).tolist()) for row in labels]
    return labels.tolist() if isinstance(labels, np.ndarray) else labels
