"""Rows in a few lines for the person whose they are: how many, which column is what, and how labels are balanced."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from client.data.features import FeatureRows
from client.data.rows import Rows, TaskData
from common.tasks import TaskDefinition
from common.tasks.definition import Label


def summary(task: TaskDefinition, data: TaskData) -> list[str]:
    """What a client has of a task. Nothing of it travels but the number of training rows."""
    lines = [f"{task.name}: {len(data.train)} training, {len(data.validation)} validation rows, {data.origin}"]
    if data.described:
        lines.append(f"  columns: {data.described}")
    for split, rows in (("training", data.train), ("validation", data.validation)):
        if len(rows) and (balance := task.type.balance(task, _labels(rows))) is not None:
            lines.append(f"  {split} {balance}")
    return lines + [f"  note: {note}" for note in data.notes]


def _labels(rows: Rows) -> Sequence[Label]:
    if not isinstance(rows, FeatureRows):
        return [row.label for row in rows]
    if rows.labels.ndim == 2:
        return [tuple(np.flatnonzero(row).tolist()) for row in rows.labels]
    labels: list[int | float] = rows.labels.tolist()
    return labels
