"""What a format of exports is: a row of `FORMATS`."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, TypeAlias

from common.models.trained import TrainedTask

if TYPE_CHECKING:
    from torch import Tensor

Outputs: TypeAlias = "Callable[[Sequence[Tensor]], Tensor]"
"""From the tensors that a model reads to its outputs, in the units of the data."""


@dataclass(frozen=True)
class ExportFormat:
    """How a trained task is written, and read again without FedMTL's model."""

    says: str
    """In a few words, for a person."""
    refusal: Callable[[TrainedTask], str]
    """Why a model cannot be written so; empty where it can."""
    write: Callable[[TrainedTask, Path], None]
    """Writes it to an empty folder."""
    load: Callable[[TrainedTask, Path], Outputs]
    """Reads it from there as a user would."""
    use: Callable[[TrainedTask], str]
    """How a user reads it: Markdown."""
