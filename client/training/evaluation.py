"""Scoring a model on validation rows."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch

from client.data.batching import length_batches
from client.data.encoding import MaskedSet, TrainingRows, collate
from client.training.loop import TaskSet
from common.errors import DataError
from common.metrics import measure
from common.models.heads import task_loss
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
    rows: TrainingRows,
    batch_size: int,
    units: TargetUnits = OWN_UNITS,
) -> TaskStatistics:
    """Score all rows without dropout and reduce the predictions to sums that may travel.

    A regression's loss is in the `units` of its head, everything else in those of its targets.

    Raises:
        DataError: the model gives outputs that are not finite.
    """
    if isinstance(rows, MaskedSet):
        return _evaluate_masked(model, task, rows, batch_size)
    device = next(model.parameters()).device
    batches = length_batches(rows.lengths, batch_size)
    scores, losses = [], []
    model.eval()
    with torch.inference_mode():
        for indices in batches:
            batch = collate(rows, indices).to(device)
            assert batch.labels is not None
            scores.append(model(task.name, batch))
            losses.append(task_loss(task, scores[-1], batch.labels, units=units))
    outputs = np.empty((len(rows), task.outputs), dtype=np.float64)
    loss_sum = 0.0
    if batches:  # read at the end, since each reading waits for a GPU
        outputs[np.concatenate(batches)] = torch.cat(scores).double().cpu().numpy()
        values = torch.stack(losses).tolist()
        loss_sum = sum(value * len(indices) for value, indices in zip(values, batches, strict=True))
    if not np.isfinite(outputs).all():
        raise DataError(f"task {task.name}: the model's outputs are not finite; lower training.learning_rate")
    return measure(task, units.targets(outputs), np.asarray(rows.labels, dtype=np.float64), loss_sum)


def _evaluate_masked(model: MultiTaskModel, task: TaskDefinition, rows: MaskedSet, batch_size: int) -> TaskStatistics:
    """The same for hidden words, of which there are too many outputs to keep."""
    device = next(model.parameters()).device
    found = torch.zeros(3, dtype=torch.float64, device=device)
    model.eval()
    with torch.inference_mode():
        for indices in length_batches(rows.lengths, batch_size):
            batch = collate(rows, indices).to(device)
            assert batch.labels is not None
            outputs = model(task.name, batch)
            loss = task_loss(task, outputs, batch.labels, "sum").double()
            hits = (outputs.argmax(dim=1) == batch.labels).sum().double()
            found += torch.stack([loss, hits, torch.full_like(loss, len(batch.labels))])
    loss_sum, hits_sum, words = found.tolist()
    if not np.isfinite(loss_sum):
        raise DataError(f"task {task.name}: the model's outputs are not finite; lower training.learning_rate")
    return TaskStatistics(int(words), loss_sum, int(hits_sum))
