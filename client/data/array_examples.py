"""Rows of numbers of one shape: what a client holds of a task over sensors, tables, images or sequences."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from math import prod

import numpy as np
import torch
from numpy.typing import NDArray

from client.data.examples import Tokenizer, UsedTokens
from client.data.forms import FORMS, ArrayForm
from common.encoders.row import ArrayEncoder
from common.inputs.arrays import ArrayBatch, Numbers
from common.tasks import TaskDefinition
from common.tasks.definition import Labels

BRIGHTEST = 255.0


@dataclass(frozen=True)
class ArrayExamples:
    """A task's rows of numbers; see `RawExamples` and `PreparedExamples`, for they are batched as they were read."""

    values: NDArray[np.float32] | NDArray[np.uint8]
    """Finite, (examples, *shape). Bytes are the brightness of pixels; batches have them as 0 to 1."""
    labels: Labels
    """int64 (examples,) for classes, float64 (examples,) for scores, float32 (examples, labels) of zeros and ones; of
    pixels, uint8 (examples, height, width) for classes and float32 for numbers."""
    form: ArrayForm = FORMS[Numbers.name]

    @property
    def inputs(self) -> str:
        """See `RawExamples`."""
        return self.form.inputs

    def __len__(self) -> int:
        return len(self.labels)

    @property
    def lengths(self) -> NDArray[np.int64]:
        """Ones: all rows are equally long, so batches are cut from a random order alone."""
        return np.ones(len(self.labels), dtype=np.int64)

    def take(self, places: NDArray[np.integer]) -> ArrayExamples:
        """A copy of these rows, in this order."""
        return replace(self, values=self.values[places], labels=self.labels[places])

    def standardised(self, others: ArrayExamples) -> tuple[ArrayExamples, ArrayExamples]:
        """Both with mean 0 and deviation 1 in each feature or channel of these rows; a constant one becomes 0.

        Mean and deviation are those of one client's rows of one task, in float64, and never leave it.
        """
        wide, axes = self.values.astype(np.float64), self.form.averaged
        mean, deviation = wide.mean(axis=axes, keepdims=True), wide.std(axis=axes, keepdims=True)
        scale = np.divide(1.0, deviation, out=np.zeros_like(deviation), where=deviation > 0)

        def scaled(rows: ArrayExamples) -> ArrayExamples:
            return replace(rows, values=((rows.values - mean) * scale).astype(np.float32))

        return scaled(self), scaled(others)

    def lacking(self, encoder: ArrayEncoder) -> frozenset[str]:
        """See `RawExamples`."""
        start, found = 0, set()
        for name, part in encoder.part_encoders.items():
            end = start + prod(part.row_shape)
            if np.isnan(self.values[:, start:end]).all():
                found.add(name)
            start = end
        return frozenset(found)

    def prepare(
        self, task: TaskDefinition, tokenizer: Tokenizer | None, pair_mode: str, max_length: int
    ) -> ArrayExamples:
        """There is nothing to do."""
        return self

    def drawn(self, seed: int) -> ArrayExamples:
        """Nothing is drawn."""
        return self

    def batch(self, places: NDArray[np.integer]) -> ArrayBatch:
        """The batch of these rows."""
        values = torch.from_numpy(self.values[places])
        if values.dtype == torch.uint8:
            values = values.float() / BRIGHTEST
        return ArrayBatch(values, torch.from_numpy(self.labels[places]))

    def used_tokens(self) -> Sequence[UsedTokens]:
        """There are no tokens."""
        return ()

    def renumbered(self, numbers: NDArray[np.int32]) -> ArrayExamples:
        """There are no tokens."""
        return self
