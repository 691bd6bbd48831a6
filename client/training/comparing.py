"""Losses of every row by itself, for candidates that are compared on the same rows."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch
from numpy.typing import NDArray

from client.data.batching import length_batches
from client.data.examples import PreparedExamples
from client.training.loop import TaskSet
from common.models.multitask import MultiTaskModel
from common.probing import TaskLosses
from common.statistics import LARGEST_LOSS

Float64 = NDArray[np.float64]


def row_losses(model: MultiTaskModel, item: TaskSet, examples: PreparedExamples, batch_size: int) -> Float64:
    """The loss of each row, or token of a row that has a target, without dropout, float64 (rows,).

    Losses that are not finite count as the largest there are: such a candidate is compared like any other.
    """
    device = next(model.parameters()).device
    found = [np.empty(0)]
    model.eval()
    with torch.inference_mode():
        for indices in length_batches(examples.lengths, batch_size):
            batch = examples.batch(indices).to(device)
            assert batch.labels is not None
            losses = item.task.type.loss(model(item.task.name, batch), batch.labels, "none", item.units)
            found.append(losses.double().cpu().numpy())
    return np.nan_to_num(np.concatenate(found), nan=LARGEST_LOSS, posinf=LARGEST_LOSS, neginf=-LARGEST_LOSS)


def compared(task: str, losses: Sequence[Float64]) -> TaskLosses:
    """What may travel of candidates' losses, (rows,) each."""
    gains = [losses[0] - other for other in losses]
    return TaskLosses(
        task,
        len(losses[0]),
        tuple(float(found.sum()) for found in losses),
        tuple(float(found.sum()) for found in gains),
        tuple(float(found @ found) for found in gains),
    )
