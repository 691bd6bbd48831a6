"""What a run gave: its scores, and a model of each task."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from client.data.array_examples import BRIGHTEST
from client.data.given import labelled
from client.training.prediction import predict
from common.errors import ModelError
from common.inputs.arrays import ArrayBatch
from common.models.multitask import MultiTaskModel
from common.models.packed_tokenizer import unpack_tokenizer
from common.targets import TargetUnits
from server.reporting.values import Report
from server.runs.saved import SavedRun, load_run


@dataclass(frozen=True)
class Score:
    """What the model of one version scored in a task, on the validation rows of all clients together."""

    version: int
    task: str
    metric: str
    value: float | None
    """None where the metric is not defined."""


class TaskModel(nn.Module):
    """The encoder and the head of one task: from rows to what the head says, in a regression's own units."""

    def __init__(self, model: MultiTaskModel, task: str, units: TargetUnits) -> None:
        super().__init__()
        self.model, self.task, self.units = model, task, units

    def forward(self, rows: Tensor) -> Tensor:
        """Logits or numbers, float32 (rows, outputs), for rows of numbers (rows, *shape); bytes count as 0 to 1."""
        values = rows / BRIGHTEST if rows.dtype == torch.uint8 else rows.float()
        outputs: Tensor = self.model(self.task, ArrayBatch(values))
        return self.units.mean + self.units.scale * outputs


@dataclass(frozen=True)
class FinishedRun:
    """What is left of a run when it has ended."""

    folder: Path
    """Its run folder: `fedmtl evaluate`, `export` and `verify` read it."""
    report: Report
    """Everything that `report.json` says."""

    @cached_property
    def history(self) -> list[Score]:
        """The scores of every version; `pandas.DataFrame(run.history)` makes a table of them."""
        return [
            Score(scored.round, task, metric, value)
            for task, told in self.report.tasks.items()
            for scored in told.history
            for metric, value in scored.scores.items()
        ]

    def model(self, task: str) -> TaskModel:
        """The newest model of a task over rows of numbers, ready to use; each call gives one of its own.

        Raises:
            ModelError: there is no such task, it reads texts, or its head is private to the clients.
        """
        saved = self._saved(task)
        if saved.config.model.array_encoder is None:
            raise ModelError(f"task '{task}' reads texts, and a model alone has no tokenizer; use run.predict")
        return TaskModel(saved.model.model.part([task]).eval(), task, saved.units_of(task)).eval()

    def predict(self, task: str, x: Sequence[Any]) -> list[str] | NDArray[Any]:
        """The answers for rows or texts: names of labels, or of a regression the numbers, float64 (rows,).

        Of tasks with a label per pixel, maps (rows, height, width) of class indices or numbers.

        Raises:
            ModelError: see `model`; or the task has several answers per row or none.
            DataError: a row is not as the model reads it.
        """
        saved = self._saved(task)
        definition, model, units = saved.model.tasks[task], saved.model.model, saved.units_of(task)
        if not (definition.type.answer and (definition.type.one_label or definition.type.per_pixel)):
            raise ModelError(f"task '{task}' is a {definition.type}; predictions are of tasks with one answer per row")
        architecture = saved.model.architecture
        tokenizer = unpack_tokenizer(saved.model.tokenizer_bytes) if architecture.tokenizer_bytes else None
        encoder = saved.config.model.array_encoder
        unknown: Sequence[Any] | NDArray[Any] = [definition.labels[0] if definition.labels else 0.0] * len(x)
        if definition.type.per_pixel and encoder is not None:
            unknown = np.zeros((len(x), *encoder.row_shape[1:]))
        rows = labelled(definition, encoder, "rows to predict", x, unknown)
        prepared = rows.prepare(definition, tokenizer, architecture.pair_mode, architecture.max_length)
        batch = saved.config.training.eval_batch_size
        outputs = predict(model, definition, prepared, batch, units)
        if definition.type.has_units:
            return outputs[:, 0]
        if definition.type.per_pixel:
            classes: NDArray[np.int64] = outputs.argmax(axis=1)
            return classes
        return [definition.labels[place] for place in outputs.argmax(axis=1)]

    def _saved(self, task: str) -> SavedRun:
        saved = load_run(self.folder)
        saved.load_task(task)
        if saved.config.data.standardise:
            raise ModelError("data.standardise: each site knows the scale of its own rows, nobody else does")
        return saved
