"""What one client wants of one task, and which share of the examples is this client's."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from client.data.columns import ColumnNames
from client.data.hub import HubSet
from client.data.splits import ScoredSplit, Split, SplitRule
from common.augmentation import Augmentation
from common.encoders.row import ArrayEncoder
from common.errors import DataError
from common.seeds import derive_seed
from common.standardising import Standardising
from common.tasks import TaskDefinition

Source = Literal["builtin", "files", "hub", "glue", "given"]

BUILTIN_TRAIN_SAMPLES = 1000
BUILTIN_VAL_SAMPLES = 200


@dataclass(frozen=True)
class DataRequest:
    """What one client wants of one task."""

    task: TaskDefinition
    source: Source
    folder: Path | None = None
    """Needed for files."""
    columns: ColumnNames | None = None
    train_samples: int | None = None
    """The most examples of this partition; None: all, or 1000 of the built-in ones, which have no end."""
    val_samples: int | None = None
    """The same for validation; None: all, or 200."""
    partition: tuple[int, int] = (1, 1)
    """(i, n): this client is the i-th of n, counted from 1, that share the examples."""
    seed: int = 0
    inputs: str = "texts"
    """Which of `INPUT_KINDS` the examples are."""
    encoder: ArrayEncoder | None = None
    """What reads rows of numbers; it says which shape they have."""
    statistics: Standardising = "none"
    """By what rows of numbers are standardised."""
    augmentation: Augmentation | None = None
    """How images to train on are changed in every epoch."""
    split: SplitRule | None = None
    """What is held out of the training rows."""
    dataset: HubSet | None = None
    """Needed for the hub."""
    scored: ScoredSplit = "validation"
    """Which rows are to be scored on; those of the test split are for whoever evaluates a finished model."""

    @property
    def scored_samples(self) -> int | None:
        """The most examples to score on; None: all. Test rows are not capped."""
        return self.val_samples if self.scored == "validation" else None

    @property
    def files(self) -> Path:
        """The folder, which must be there.

        Raises:
            DataError: it is not.
        """
        if self.folder is None:
            raise DataError(f"task {self.task.name} is read from files but no data folder is given; set it")
        return self.folder

    @property
    def array_encoder(self) -> ArrayEncoder:
        """The encoder that reads rows of numbers, which must be one of ours."""
        assert self.encoder is not None
        return self.encoder

    @property
    def builtin_samples(self) -> tuple[int, int]:
        """How many built-in examples to train and to validate on."""
        validation = BUILTIN_VAL_SAMPLES if self.val_samples is None else self.val_samples
        return self.train_samples or BUILTIN_TRAIN_SAMPLES, validation


def shard(count: int, request: DataRequest, split: Split, samples: int | None) -> NDArray[np.int64]:
    """Which of `count` examples are this client's: every n-th of one seeded order that all n clients agree on.

    Raises:
        DataError: No row is left for this partition.
    """
    number, parts = request.partition
    if samples == 0:
        return np.empty(0, dtype=np.int64)
    seed = derive_seed(request.seed, request.task.name, split, "partition")
    order = np.random.Generator(np.random.PCG64(seed)).permutation(count)
    mine: NDArray[np.int64] = order[number - 1 :: parts][:samples]
    if not len(mine):
        raise DataError(
            f"partition {number} of {parts} of {request.task.name} has no {split} rows: "
            f"there are only {count}; use fewer partitions"
        )
    return mine
