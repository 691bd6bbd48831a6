"""Rows of numbers: what a client holds of a task whose inputs are sensors, tables or flattened images."""

from __future__ import annotations

from dataclasses import dataclass, replace

import numpy as np
import torch
from numpy.typing import NDArray

from common.models.batch import FeatureBatch
from common.tasks.definition import Labels


@dataclass(frozen=True)
class FeatureRows:
    """A task's rows, ready for batching.

    `features` is float32 (rows, features) and finite; `labels` is int64 (rows,) for classes, float64 (rows,) for
    scores, float32 (rows, labels) of zeros and ones for multi-label tasks.
    """

    features: NDArray[np.float32]
    labels: Labels

    def __len__(self) -> int:
        return len(self.labels)

    @property
    def lengths(self) -> NDArray[np.int64]:
        """Ones, int64 (rows,): all rows are equally long, so batches are cut from a random order alone."""
        return np.ones(len(self.labels), dtype=np.int64)

    def take(self, rows: NDArray[np.integer]) -> FeatureRows:
        """A copy of these rows, in this order."""
        return FeatureRows(self.features[rows], self.labels[rows])

    def batch(self, rows: NDArray[np.integer]) -> FeatureBatch:
        """The batch of these rows."""
        return FeatureBatch(torch.from_numpy(self.features[rows]), torch.from_numpy(self.labels[rows]))


def standardised(train: FeatureRows, validation: FeatureRows) -> tuple[FeatureRows, FeatureRows]:
    """Both with mean 0 and deviation 1 in each feature of the training rows; a constant feature becomes 0.

    Mean and deviation are those of one client's rows of one task, in float64, and never leave it.
    """
    wide = train.features.astype(np.float64)
    mean, deviation = wide.mean(axis=0), wide.std(axis=0)
    scale = np.divide(1.0, deviation, out=np.zeros_like(deviation), where=deviation > 0)

    def scaled(rows: FeatureRows) -> FeatureRows:
        return replace(rows, features=((rows.features - mean) * scale).astype(np.float32))

    return scaled(train), scaled(validation)
