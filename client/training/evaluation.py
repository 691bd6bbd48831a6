"""Scoring a model on validation examples."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import numpy as np
import torch
from torch import Tensor

from client.data.batching import length_batches
from client.data.examples import PreparedExamples
from client.training.loop import TaskSet
from common.models.multitask import MultiTaskModel
from common.statistics import TaskStatistics
from common.targets import OWN_UNITS, TargetUnits
from common.tasks import TaskDefinition

Scores = dict[str, TaskStatistics]
"""By task."""


def score(model: MultiTaskModel, sets: Sequence[TaskSet], batch_size: int) -> Scores:
    """Scores of the model as it stands, by task, on validation examples where there are any."""
    return {s.task.name: evaluate(model, s.task, s.validation, batch_size, s.units) for s in sets if len(s.validation)}


def evaluate(
    model: MultiTaskModel,
    task: TaskDefinition,
    examples: PreparedExamples,
    batch_size: int,
    units: TargetUnits = OWN_UNITS,
) -> TaskStatistics:
    """Score all examples without dropout and reduce the predictions to sums that may travel.

    The loss is in the `units` that the federation fixed for the task, everything else in those of its targets.

    Raises:
        DataError: the model gives outputs that are not finite.
    """
    device = next(model.parameters()).device
    batches = length_batches(examples.lengths, batch_size)

    def answers() -> Iterator[tuple[Tensor, Tensor]]:
        for indices in batches:
            batch = examples.batch(indices).to(device)
            assert batch.labels is not None
            yield model(task.name, batch), batch.labels

    model.eval()
    with torch.inference_mode():
        return task.type.score(task, answers(), np.concatenate(batches or [np.empty(0, np.int64)]), units)
