"""Scoring a model on validation examples."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
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


@dataclass(frozen=True)
class AnsweredRow:
    """What a model said of one example."""

    statistics: TaskStatistics
    """Of this example alone; merged, they are those of all examples, but for metrics that need all at once."""
    output: NDArray[np.float64]
    """(outputs,), of a regression in the units of its targets; empty where an example has several outputs or maps."""
    target: NDArray[np.float64]
    """Of the example; empty like `output`."""


def evaluate_rows(
    model: MultiTaskModel,
    task: TaskDefinition,
    examples: PreparedExamples,
    batch_size: int,
    units: TargetUnits = OWN_UNITS,
) -> list[AnsweredRow]:
    """Score every example by itself, in the order of the examples; batches and outputs are those of `evaluate`.

    Raises:
        DataError: the model gives outputs that are not finite.
    """
    device, kind = next(model.parameters()).device, task.type
    order = length_batches(examples.lengths, 1 if kind.per_token else batch_size)
    found: dict[int, AnsweredRow] = {}
    model.eval()
    with torch.inference_mode():
        for places in order:
            batch = examples.batch(places).to(device)
            assert batch.labels is not None
            outputs, labels = model(task.name, batch).cpu(), batch.labels.cpu()
            rows = [(outputs, labels)]
            if not kind.per_token:
                rows = [(outputs[at : at + 1], labels[at : at + 1]) for at in range(len(places))]
            for place, (said, wanted) in zip(places.tolist(), rows, strict=True):
                alone = kind.score(task, [(said, wanted)], np.zeros(1, np.int64), units)
                several = kind.per_token or kind.per_pixel
                output = np.empty(0) if several else units.targets(said[0].double().numpy())
                found[place] = AnsweredRow(alone, output, np.empty(0) if several else wanted[0].double().numpy())
    return [found[place] for place in range(len(examples))]
