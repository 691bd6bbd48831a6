"""Rows of numbers: what a client holds of a task whose inputs are sensors, tables or flattened images."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np
import torch
from numpy.typing import NDArray

from client.data.examples import Tokenizer, UsedTokens
from common.inputs.numbers import NumberBatch
from common.tasks import TaskDefinition
from common.tasks.definition import Labels


@dataclass(frozen=True)
class NumberExamples:
    """A task's rows of numbers; see `RawExamples` and `PreparedExamples`, for they are batched as they were read."""

    features: NDArray[np.float32]
    """Finite, (examples, features)."""
    labels: Labels
    """int64 (examples,) for classes, float64 (examples,) for scores, float32 (examples, labels) of zeros and ones."""
    inputs = "numbers"

    def __len__(self) -> int:
        return len(self.labels)

    @property
    def lengths(self) -> NDArray[np.int64]:
        """Ones: all rows are equally long, so batches are cut from a random order alone."""
        return np.ones(len(self.labels), dtype=np.int64)

    def take(self, places: NDArray[np.integer]) -> NumberExamples:
        """A copy of these rows, in this order."""
        return NumberExamples(self.features[places], self.labels[places])

    def standardised(self, others: NumberExamples) -> tuple[NumberExamples, NumberExamples]:
        """Both with mean 0 and deviation 1 in each feature of these rows; a constant feature becomes 0.

        Mean and deviation are those of one client's rows of one task, in float64, and never leave it.
        """
        wide = self.features.astype(np.float64)
        mean, deviation = wide.mean(axis=0), wide.std(axis=0)
        scale = np.divide(1.0, deviation, out=np.zeros_like(deviation), where=deviation > 0)

        def scaled(rows: NumberExamples) -> NumberExamples:
            return replace(rows, features=((rows.features - mean) * scale).astype(np.float32))

        return scaled(self), scaled(others)

    def prepare(
        self, task: TaskDefinition, tokenizer: Tokenizer | None, pair_mode: str, max_length: int
    ) -> NumberExamples:
        """There is nothing to do."""
        return self

    def drawn(self, seed: int) -> NumberExamples:
        """Nothing is drawn."""
        return self

    def batch(self, places: NDArray[np.integer]) -> NumberBatch:
        """The batch of these rows."""
        return NumberBatch(torch.from_numpy(self.features[places]), torch.from_numpy(self.labels[places]))

    def used_tokens(self) -> Sequence[UsedTokens]:
        """There are no tokens."""
        return ()

    def renumbered(self, numbers: NDArray[np.int32]) -> NumberExamples:
        """There are no tokens."""
        return self
