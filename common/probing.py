"""What a client says of candidates that it was asked to compare."""

from __future__ import annotations

from dataclasses import dataclass

from common.orders import ReplyContent


@dataclass(frozen=True)
class TaskLosses:
    """Sums over a client's rows of a task, a number for each candidate in the order of the candidates."""

    task: str
    rows: int
    """That have a loss: examples, or tokens of them."""
    losses: tuple[float, ...]
    """In the units of the task's head."""
    gains: tuple[float, ...]
    """The first candidate's loss less this one's."""
    squares: tuple[float, ...]
    """Of the same, row by row: what a standard error is made of."""


@dataclass(frozen=True)
class ProbeLosses(ReplyContent):
    """Answers a `Probe`: the losses on each of the order's tasks."""

    tasks: tuple[TaskLosses, ...]
