"""What a model says of rows that nobody has labelled."""

from __future__ import annotations

import numpy as np
import torch
from numpy.typing import NDArray

from client.data.batching import length_batches
from client.data.examples import PreparedExamples
from client.data.tokenised import WordSet
from common.models.multitask import MultiTaskModel
from common.targets import OWN_UNITS, TargetUnits
from common.tasks import TaskDefinition
from common.tasks.kind import not_finite


def predict(
    model: MultiTaskModel,
    task: TaskDefinition,
    examples: PreparedExamples,
    batch_size: int,
    units: TargetUnits = OWN_UNITS,
) -> NDArray[np.float64]:
    """Outputs of a task's head without dropout, (examples, outputs, ...), in the order of the examples.

    Those of a regression are in the units of its targets, not of its head.

    Raises:
        DataError: an output is not finite.
    """
    device = next(model.parameters()).device
    found = np.empty((0, task.outputs))
    model.eval()
    with torch.inference_mode():
        for places in length_batches(examples.lengths, batch_size):
            outputs = model(task.name, examples.batch(places).to(device)).double().cpu().numpy()
            if not len(found):
                found = np.empty((len(examples), *outputs.shape[1:]))
            found[places] = outputs
    if not np.isfinite(found).all():
        raise not_finite(task)
    return units.targets(found)


def predict_tokens(
    model: MultiTaskModel, task: TaskDefinition, examples: WordSet, batch_size: int
) -> list[NDArray[np.float64]]:
    """What a task's kind keeps of the outputs of each text's tokens, (tokens, ...) each; see `WordSet.by_row`.

    Raises:
        DataError: an output is not finite.
    """
    device = next(model.parameters()).device
    found: list[NDArray[np.float64]] = [np.empty(0)] * len(examples)
    model.eval()
    with torch.inference_mode():
        for places in length_batches(examples.lengths, batch_size):
            kept = task.type.kept(model(task.name, examples.batch(places).to(device))).double().cpu().numpy()
            if not np.isfinite(kept).all():
                raise not_finite(task)
            for place, rows in zip(places, examples.by_row(kept, places), strict=True):
                found[place] = rows
    return found
