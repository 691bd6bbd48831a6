"""Rows in a few lines for the person whose they are: how many, which column is what, and how labels are balanced."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable

import numpy as np

from client.data.features import FeatureRows
from client.data.rows import Rows, TaskData
from common.tasks import TaskDefinition, TaskType

LISTED_LABELS = 12


def summary(task: TaskDefinition, data: TaskData) -> list[str]:
    """What a client has of a task. Nothing of it travels but the number of training rows."""
    lines = [f"{task.name}: {len(data.train)} training, {len(data.validation)} validation rows, {data.origin}"]
    if data.described:
        lines.append(f"  columns: {data.described}")
    for split, rows in (("training", data.train), ("validation", data.validation)):
        if len(rows) and task.type is not TaskType.MASKED_LM:
            lines.append(f"  {split} {_scores(rows) if task.type is TaskType.REGRESSION else _balance(task, rows)}")
    return lines + [f"  note: {note}" for note in data.notes]


def _scores(rows: Rows) -> str:
    scores = np.array(list(_labels(rows)), dtype=np.float64)
    spread = f"mean {scores.mean():.4g}, deviation {scores.std():.4g}"
    return f"scores: from {scores.min():.4g} to {scores.max():.4g}, {spread}"


def _balance(task: TaskDefinition, rows: Rows) -> str:
    """Each label's rows and their share, the most frequent labels first."""
    several = task.type is TaskType.MULTILABEL
    counts: Counter[int] = Counter()
    for label in _labels(rows):
        counts.update(label if isinstance(label, tuple) else [int(label)])
    frequent = counts.most_common(LISTED_LABELS)
    said = [f"{task.labels[index]} {count} ({count / len(rows):.0%})" for index, count in frequent]
    if several:
        said.append(f"none {sum(label == () for label in _labels(rows))}")
    if len(counts) > len(frequent):
        said.append(f"{len(counts) - len(frequent)} more labels")
    lacking = [name for index, name in enumerate(task.labels) if index not in counts]
    if lacking:
        names = ", ".join(lacking[:LISTED_LABELS]) + ", ..." * (len(lacking) > LISTED_LABELS)
        said.append(f"no row of {names}")
    return f"labels: {', '.join(said)}"


def _labels(rows: Rows) -> Iterable[int | float | tuple[int, ...]]:
    if not isinstance(rows, FeatureRows):
        return (row.label for row in rows)
    if rows.labels.ndim == 2:
        return (tuple(np.flatnonzero(row).tolist()) for row in rows.labels)
    labels: list[int | float] = rows.labels.tolist()
    return labels
