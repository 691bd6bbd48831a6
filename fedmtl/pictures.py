"""The picture of a run's scores. It imports matplotlib, which is an optional package."""

from __future__ import annotations

import io
from collections.abc import Sequence
from dataclasses import dataclass
from math import ceil
from pathlib import Path

from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator

from common.tasks import TaskDefinition
from server.reporting.history import Score

DPI = 120
MOST_COLUMNS = 3
POOLED, ONE = ("#0072B2", 2.0), ("#bbbbbb", 0.8)
"""Colour and width of the lines."""


@dataclass(frozen=True)
class Picture:
    """A figure that a notebook shows by itself, and that can be saved."""

    figure: Figure

    def save(self, path: str | Path) -> None:
        """Write it; the ending of the name says the format."""
        self.figure.savefig(path, dpi=DPI)

    def _repr_png_(self) -> bytes:
        found = io.BytesIO()
        self.figure.savefig(found, format="png", dpi=DPI)
        return found.getvalue()


def curves(tasks: Sequence[TaskDefinition], scores: Sequence[Score]) -> Picture:
    """A panel per task with its first metric by version: the thick line is of all clients together."""
    columns = min(len(tasks), MOST_COLUMNS)
    rows = ceil(len(tasks) / columns)
    figure = Figure(figsize=(3.4 * columns + 0.3, 2.6 * rows), layout="constrained")
    panels = figure.subplots(rows, columns, squeeze=False).ravel().tolist()
    for task, panel in zip(tasks, panels, strict=False):
        _panel(panel, task, [score for score in scores if (score.task, score.metric) == (task.name, task.metrics[0])])
    for panel in panels[len(tasks) :]:
        panel.set_visible(False)
    return Picture(figure)


def _panel(panel: Axes, task: TaskDefinition, scores: Sequence[Score]) -> None:
    for client in sorted({score.client for score in scores}, reverse=True):  # the thick line lies above
        own = [(score.version, score.value) for score in scores if score.client == client and score.value is not None]
        colour, width = ONE if client else POOLED
        panel.plot([version for version, _ in own], [value for _, value in own], color=colour, linewidth=width)
    panel.set_title(f"{task.name}, {task.metrics[0]}", loc="left", fontsize=10)
    panel.set_xlabel("version", fontsize=9)
    panel.xaxis.set_major_locator(MaxNLocator(nbins=6, integer=True))
